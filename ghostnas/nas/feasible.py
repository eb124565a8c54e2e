"""The networks of a space that meet the budgets: counted, drawn evenly, and found near a proposal.

Multiply-accumulates, parameters, file size and predicted milliseconds are sums over a network's
parts, and a space is a chain of parts (`ghostnas.networks.enumeration`). So the settings within the
budgets are counted by dynamic programming over the groups, once for each setting of the whole, and
drawn from those counts group by group: every setting of the searched numbers that meets the budgets
is equally likely, even if one in a million does.

The sums are kept on a grid and rounded down, so that the grid loses no network that meets the
budgets; what it has too many is rejected by the exact utilization. `acceptance` is the share of
draws that are kept.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from ghostnas.arrays import Array
from ghostnas.errors import BudgetError, InputError
from ghostnas.networks import enumeration
from ghostnas.networks.arch import Arch, Head, Part, Stem, parts
from ghostnas.networks.blocks import Block
from ghostnas.networks.enumeration import Setting
from ghostnas.networks.space import SCALES, Params, Space, Value

# The share of each budget that is a sum over parts which one part uses; infinite if the part alone
# is over a budget of another kind.
Shares: TypeAlias = Callable[[Part], Sequence[float]]
_Width: TypeAlias = tuple[float, int]  # of an output: before alpha, and its channels
# How much of its budgets a network uses: 1 is exactly at the tightest of them, more is over.
Utilization: TypeAlias = Callable[[Arch], float]

CELLS = {0: 1, 1: 1000, 2: 120, 3: 36, 4: 18}  # of the grid each way, by how many sums there are
SMALL = 20_000  # settings up to which a set is listed
SAMPLE = 48  # networks whose exact utilization is compared with the sum of their parts
SLACK = 3.0  # standard deviations of that comparison by which the grid's limit is raised
LEAST_SCALE = 0.2
EXACT = 1e-9  # relative rounding of a share that is exactly at a budget
BATCH, FEWEST_DRAWN, ROWS = 64, 256, 2048
HOPELESS = 20_000  # draws without a network within the budgets before the set counts as empty
NEARNESS = 4.0  # a setting with one more number changed is exp(4) = 55 times rarer in `near`


@dataclass(frozen=True, slots=True, eq=False)
class _Menu:
    """The settings at one place of the chain, and the distinct parts that these are made of: with
    their input channels, and whether they are the first at this place.

    `used` has a row for each setting: the indices of its parts, filled up with -1.
    """

    settings: Sequence[Setting[Any]]
    distinct: Sequence[tuple[Stem | Block | Head, int, bool]]
    used: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Link:
    """A group's settings behind one input width: their shares of the budgets (settings, sums), the
    same in cells of the grid, and the index of the output width that each leads to.
    """

    settings: Sequence[Setting[Any]]
    shares: Array
    costs: Array
    ends: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Chain:
    """The stem, the groups and the head, given one setting of the whole network.

    `links[i][w]` is the i-th behind input width `w`; `fitting[i][w]` counts, for each rest of the
    budgets, the settings of the i-th and all that follow it which fit into that rest.
    """

    whole: Params
    links: Sequence[Sequence[_Link]]
    fitting: Sequence[Sequence[Array]]

    @property
    def count(self) -> float:
        return float(self.fitting[0][0].flat[-1])


class FeasibleSet:
    """The settings of a space's searched numbers whose networks meet the budgets.

    Args:
        shares: how much one part uses of each budget that is a sum over parts.
        exact: how much a whole network uses of these.
        sums: how many of these budgets there are.
        only_sums: whether there are no others.
        utilization: of all budgets, exactly.
        log_costs: of a network, what a surrogate learns from: its size first.

    Raises:
        BudgetError: no network meets the budgets.
        InputError: the space searches strides, so that its parts are not independent.
    """

    def __init__(
        self,
        space: Space,
        shares: Shares,
        exact: Callable[[Arch], Sequence[float]],
        sums: int,
        only_sums: bool,
        utilization: Utilization,
        log_costs: Callable[[Arch], Sequence[float]],
    ) -> None:
        self.space, self.utilization = space, utilization
        self._shares, self._exact, self._sums = shares, exact, sums
        self._log_costs = log_costs
        self._cells = CELLS.get(sums, 12)
        self._shape = (self._cells + 1,) * sums
        self._known: dict[Part, Array] = {}
        self._menus: dict[tuple[Any, ...], _Menu] = {}
        self._exact_sums = False
        self._scale = self._calibrated(only_sums)
        found = [self._chain(whole) for whole in enumeration.wholes(space)]
        self._chains = [chain for chain in found if chain.count]
        if not self._chains:
            raise self._none()
        counts = np.array([chain.count for chain in self._chains])
        self._on_grid = float(counts.sum())
        self._chances = counts / counts.sum()
        self._drawn = self._kept = 0

    @cached_property
    def acceptance(self) -> float:
        """The share of draws from the grid that meet the budgets exactly."""
        rng = np.random.default_rng(0)
        while self._drawn < FEWEST_DRAWN:
            self._draw(rng, BATCH)
        return self._kept / self._drawn

    @cached_property
    def count(self) -> float:
        """How many settings meet the budgets; exact if they are listed, else an estimate."""
        return self._on_grid * self.acceptance if self.all is None else len(self.all)

    @cached_property
    def all(self) -> list[Params] | None:
        """Every setting that meets the budgets, if the grid has no more than `SMALL`."""
        if self._on_grid > SMALL:
            return None
        listed = itertools.chain.from_iterable(map(self._listed, self._chains))
        return [params for params in listed if self._exact_sums or self.fits(params)]

    @property
    def choices(self) -> Mapping[str, Sequence[Value]]:
        return self.space.choices

    def asked(self, params: Mapping[str, Value]) -> Params:
        """The numbers that decide the network, without those that make no difference to it."""
        found: Params = {}

        def pick(name: str, options: Sequence[Any]) -> Any:
            found[name] = params.get(name, options[0])
            return found[name]

        self.space.build(pick)
        return found

    def network(self, params: Mapping[str, Value]) -> str:
        """What network it is: rounded, other settings may lead to the same one."""
        return self.space.decode(params).id

    def log_costs(self, params: Mapping[str, Value]) -> Sequence[float]:
        """Logarithms of the costs that go with accuracy."""
        return self._log_costs(self.space.decode(params))

    def fits(self, params: Mapping[str, Value]) -> bool:
        """Whether the network of these parameters meets all budgets."""
        return self.utilization(self.space.decode(params)) <= 1

    def draw(self, rng: np.random.Generator, count: int) -> list[Params]:
        """Independent settings that meet the budgets, each equally likely.

        Raises:
            BudgetError: there are none.
        """
        found: list[Params] = []
        wasted = 0
        while len(found) < count:
            wanted = max(BATCH, count - len(found))
            batch = self._draw(rng, wanted)
            wasted = 0 if batch else wasted + wanted
            if wasted > HOPELESS:
                raise self._none()
            found += batch
        return found[:count]

    def near(
        self, rng: np.random.Generator, proposal: Mapping[str, Value], count: int
    ) -> list[Params]:
        """Up to `count` settings that meet the budgets, a change of one more of the proposal's
        numbers making a setting `exp(NEARNESS)` times rarer. Numbers that the proposal does not
        name are free. Fewer if the grid admits too many that are over the budgets.
        """

        def changes(params: Mapping[str, Value]) -> int:
            return sum(proposal.get(name, value) != value for name, value in params.items())

        chain = min(self._chains, key=lambda each: (changes(each.whole), -each.count))
        chances = [
            [np.exp([-NEARNESS * changes(s.params) for s in link.settings]) for link in links]
            for links in chain.links
        ]
        fitting = self._fitting(chain.links, chances)
        found: list[Params] = []
        for _ in range(4):
            found += self._walk(chain, fitting, chances, rng, count + 7)
            if len(found) >= count:
                break
        return found[:count]

    def _draw(self, rng: np.random.Generator, count: int) -> list[Params]:
        kept: list[Params] = []
        for chain, share in zip(self._chains, rng.multinomial(count, self._chances), strict=True):
            if share:
                kept += self._walk(chain, chain.fitting, None, rng, int(share))
        self._drawn += count
        self._kept += len(kept)
        return [kept[at] for at in rng.permutation(len(kept))]

    def _none(self) -> BudgetError:
        return BudgetError(f"no network of space {self.space.name} meets the budgets")

    def _calibrated(self, only_sums: bool) -> Array:
        """What sums over parts are multiplied by: 1 where these are exact, and otherwise so little
        that a sample of networks is never charged more than its exact share.
        """
        if not self._sums:
            return np.ones(0)
        rng = random.Random(0)
        archs = [self.space.decode(self.space.sample(rng)) for _ in range(SAMPLE)]
        ratios = np.array(
            [
                np.asarray(self._exact(arch)) / sum(self._shares_of(part) for part in parts(arch))
                for arch in archs
            ]
        )
        ratios = ratios[np.isfinite(ratios).all(1) & (ratios > 0).all(1)]
        if not len(ratios):
            raise self._none()
        if only_sums and bool((np.abs(ratios - 1) < EXACT).all()):
            self._exact_sums = True
            return np.ones(self._sums)
        lowest: Array = ratios.min(0) - SLACK * ratios.std(0)
        return np.clip(lowest, LEAST_SCALE, 1.0)

    def _shares_of(self, part: Part) -> Array:
        if part not in self._known:
            self._known[part] = np.asarray(self._shares(part), float)
        return self._known[part]

    def _chain(self, whole: Params) -> _Chain:
        space = self.space
        sizes = _sizes(space, whole)
        size, stride = sizes[0]
        menu = _menu(enumeration.stems(space, whole), 3)
        ends = _ends(menu.settings)
        links = [[self._link(menu, ends, (size, stride), size)]]
        for group in range(1, space.groups + 1):
            starts, after = ends, sizes[group + 1][0]
            menus = [self._group_menu(whole, group, start) for start in starts]
            ends = _ends(list(itertools.chain.from_iterable(each.settings for each in menus)))
            links.append([self._link(each, ends, sizes[group], after) for each in menus])
        heads = enumeration.heads(space, whole)
        links.append(
            [
                self._link(_menu(heads, channels), [_NO_WIDTH], sizes[-1], sizes[-1][0])
                for _, channels in ends
            ]
        )
        return _Chain(whole, links, self._fitting(links, None))

    def _group_menu(self, whole: Params, group: int, start: _Width) -> _Menu:
        """A group's settings behind an input; they are the same at all resolutions."""
        key = (group, start, *(whole.get(name) for name in SCALES))
        if key not in self._menus:
            self._menus[key] = _menu(enumeration.groups(self.space, whole, group, *start), start[1])
        return self._menus[key]

    def _link(
        self, menu: _Menu, ends: Sequence[_Width], place: tuple[int, int], after: int
    ) -> _Link:
        """A menu at its place: (pixels, stride) of the first part, and pixels of those after it."""
        size, stride = place
        places = {end: at for at, end in enumerate(ends)}
        priced = np.zeros((len(menu.distinct) + 1, self._sums))
        for at, (numbers, channels, first) in enumerate(menu.distinct):
            side = size if first else after
            classes = self.space.classes if isinstance(numbers, Head) else 0
            part = Part(numbers, (channels, side, side), stride if first else 1, classes)
            priced[at] = self._shares_of(part)
        shares = self._scale * priced[menu.used].sum(1)
        over = ~np.isfinite(shares) | (shares > 1 + EXACT)
        cells = np.floor(np.where(over, 0.0, shares) * self._cells + EXACT).astype(np.int64)
        cells[over.any(1)] = self._cells + 1  # out of the grid
        ended = np.array([places[_end(setting)] for setting in menu.settings])
        return _Link(menu.settings, shares, cells, ended)

    def _fitting(
        self, links: Sequence[Sequence[_Link]], chances: Sequence[Sequence[Array]] | None
    ) -> list[list[Array]]:
        """`_Chain.fitting`, each setting counted by its chance, from the head to the stem."""
        behind = [np.ones(self._shape)]
        found = [behind]
        for position in range(len(links) - 1, -1, -1):
            own = []
            for at, link in enumerate(links[position]):
                weight = np.ones(len(link.settings)) if chances is None else chances[position][at]
                own.append(self._fitting_behind(link, weight, behind))
            behind = own
            found.append(behind)
        return found[::-1]

    def _fitting_behind(self, link: _Link, weight: Array, behind: Sequence[Array]) -> Array:
        total = np.zeros(self._shape)
        fits = (link.costs <= self._cells).all(1)
        keys = np.column_stack([link.ends, link.costs])[fits]
        if not len(keys):
            return total
        kinds, which = np.unique(keys, axis=0, return_inverse=True)
        summed = np.bincount(which.ravel(), weight[fits])
        for (end, *cost), amount in zip(kinds, summed, strict=True):
            into = tuple(slice(cell, None) for cell in cost)
            rest = tuple(slice(None, self._cells + 1 - cell) for cell in cost)
            total[into] += amount * behind[end][rest]
        return total

    def _walk(
        self,
        chain: _Chain,
        fitting: Sequence[Sequence[Array]],
        chances: Sequence[Sequence[Array]] | None,
        rng: np.random.Generator,
        count: int,
    ) -> list[Params]:
        """Of `count` settings on the grid, drawn link by link, those that meet the budgets."""
        if fitting[0][0].flat[-1] <= 0:
            return []
        used = np.zeros((count, self._sums))
        drawn: list[Params] = [dict(chain.whole) for _ in range(count)]
        widths = np.zeros(count, dtype=np.int64)
        rests = np.full((count, self._sums), self._cells)
        for position, links in enumerate(chain.links):
            behind = np.stack(fitting[position + 1])
            ended = widths.copy()
            for width in np.unique(widths):
                link, members = links[width], np.flatnonzero(widths == width)
                weight = None if chances is None else chances[position][width]
                for rows in np.array_split(members, -(-len(members) // ROWS)):
                    chosen = _choose(link, behind, rests[rows], weight, rng)
                    for row, at in zip(rows, chosen, strict=True):
                        drawn[row].update(link.settings[at].params)
                    rests[rows] -= link.costs[chosen]
                    used[rows] += link.shares[chosen]
                    ended[rows] = link.ends[chosen]
            widths = ended
        within = np.flatnonzero((used <= 1 + EXACT).all(1))
        kept = [drawn[row] for row in within]
        return kept if self._exact_sums else [params for params in kept if self.fits(params)]

    def _listed(self, chain: _Chain) -> Iterator[Params]:
        """Every setting of a chain on the grid whose parts are within the budgets in sum."""
        start = np.zeros(self._sums)
        waiting = [(0, 0, (self._cells,) * self._sums, start, dict(chain.whole))]
        while waiting:
            position, width, rest, used, params = waiting.pop()
            if position == len(chain.links):
                yield params
                continue
            link = chain.links[position][width]
            for setting, shares, cost, end in zip(
                link.settings, link.shares, link.costs, link.ends, strict=True
            ):
                left = tuple(int(r - c) for r, c in zip(rest, cost, strict=True))
                sums = used + shares
                if (
                    min(left, default=0) >= 0
                    and chain.fitting[position + 1][end][left] > 0
                    and (sums <= 1 + EXACT).all()
                ):
                    more = {**params, **setting.params}
                    waiting.append((position + 1, int(end), left, sums, more))


_NO_WIDTH: _Width = (0.0, 0)  # behind the head


def find_smallest(space: Space, utilization: Utilization) -> Params:
    """The parameters of least utilization that changing one number at a time leads to.

    Raises:
        BudgetError: even that network is over the budget.
    """
    params: Params = {name: options[0] for name, options in space.choices.items()}
    best, before = utilization(space.decode(params)), float("inf")
    while best < before:
        before = best
        for name, options in space.choices.items():
            for option in options:
                candidate = {**params, name: option}
                amount = utilization(space.decode(candidate))
                if amount < best:
                    params, best = candidate, amount
    if best > 1:
        raise BudgetError(
            f"no network of space {space.name} meets the budget: the smallest one found needs "
            f"{best:.3g} times as much"
        )
    return params


def published(space: Space, utilization: Utilization) -> Params | None:
    """The space's published network, at the largest alpha that the budgets allow; None if they
    allow none.
    """
    first: Params = {name: options[0] for name, options in space.choices.items()}
    for alpha in sorted(space.choices.get("alpha", ()), reverse=True):
        if utilization(space.decode({**first, "alpha": alpha})) <= 1:
            return {**first, "alpha": alpha}
    return first if utilization(space.decode(first)) <= 1 else None


def _choose(
    link: _Link, behind: Array, rests: Array, weight: Array | None, rng: np.random.Generator
) -> Array:
    """One setting for each rest of the budgets, by how many completions it leaves."""
    left = rests[:, None, :] - link.costs  # (rests, settings, sums)
    fits = (left >= 0).all(2)
    cells = tuple(np.moveaxis(np.maximum(left, 0), 2, 0))
    amounts = np.where(fits, behind[(np.broadcast_to(link.ends, fits.shape), *cells)], 0.0)
    if weight is not None:
        amounts = amounts * weight
    reached = amounts.cumsum(1)
    aimed = rng.random(len(rests)) * reached[:, -1]
    chosen: Array = np.minimum((reached <= aimed[:, None]).sum(1), len(link.settings) - 1)
    return chosen


def _sizes(space: Space, whole: Mapping[str, Value]) -> list[tuple[int, int]]:
    """Pixels of the input, and the stride that it is run with, of the stem, of each group's first
    block and (stride 1) of the head.
    """
    if searched := [name for name in space.choices if name.endswith("stride")]:
        raise InputError(
            f"space {space.name} searches {searched[0]}: its parts are not independent"
        )
    arch = space.decode(whole)
    strides = [arch.stem.stride]
    strides += [int(space.numbers[f"group{group}.stride"]) for group in range(1, space.groups + 1)]
    size, to_drop, found = arch.resolution, arch.dropped_strides, []
    for stride in strides:
        dropped = stride > 1 and to_drop > 0
        to_drop -= dropped
        found.append((size, 1 if dropped else stride))
        size = -(-size // found[-1][1])
    return [*found, (size, 1)]


def _menu(settings: Sequence[Setting[Any]], channels: int) -> _Menu:
    """The settings behind an input of so many channels."""
    places: dict[tuple[Stem | Block | Head, int, bool], int] = {}
    rows = []
    for setting in settings:
        row, entering, first = [], channels, True
        for part in setting.built if isinstance(setting.built, tuple) else (setting.built,):
            row.append(places.setdefault((part, entering, first), len(places)))
            entering, first = (part.out_channels if isinstance(part, Block) else 0), False
        rows.append(row)
    used = np.full((len(rows), max(map(len, rows))), -1)
    for at, row in enumerate(rows):
        used[at, : len(row)] = row
    return _Menu(settings, list(places), used)


def _end(setting: Setting[Any]) -> _Width:
    built = setting.built
    if isinstance(built, Stem):
        return setting.width, built.channels
    if isinstance(built, Head):
        return _NO_WIDTH
    return setting.width, built[-1].out_channels


def _ends(settings: Sequence[Setting[Any]]) -> list[_Width]:
    return list(dict.fromkeys(map(_end, settings)))
