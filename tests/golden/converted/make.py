"""Makes the files beside it with TensorFlow's own converter: what ghostnas has to read of others.

tensorflow-cpu 2.18.1 and keras 3 from PyPI, in an environment of their own:

    python -m venv tf && tf/bin/pip install tensorflow-cpu==2.18.1 && tf/bin/python make.py
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
L = tf.keras.layers


def network() -> tf.keras.Model:
    image = L.Input((32, 32, 3))
    x = L.ZeroPadding2D(((0, 1), (0, 1)))(image)  # as keras pads for a stride of 2
    x = L.BatchNormalization()(L.Conv2D(8, 3, 2, use_bias=False)(x))
    x = y = L.ReLU(6.0)(x)
    x = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
    x = L.Activation("hard_silu")(x)
    gate = L.Conv2D(4, 1, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = L.Multiply()([x, L.Conv2D(8, 1, activation="sigmoid")(gate)])
    x = L.Add()([L.Conv2D(8, 1)(x), y])
    x = L.Concatenate()([x, L.AveragePooling2D(3, 1, padding="same")(x)])
    x = L.DepthwiseConv2D(5, 2, padding="same")(L.MaxPool2D(2)(x))
    x = L.GlobalAveragePooling2D()(L.Conv2D(16, 1, activation="silu")(x))
    return tf.keras.Model(image, L.Dense(10, activation="softmax")(x))


def main() -> None:
    tf.keras.utils.set_random_seed(0)
    model = network()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    (HERE / "keras-fp32.tflite").write_bytes(converter.convert())
    rng = np.random.default_rng(0)
    images = [rng.random((1, 32, 32, 3), dtype=np.float32) for _ in range(8)]
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    (HERE / "keras-int8.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main()
