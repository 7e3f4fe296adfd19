"""The networks of `keras.applications`, known without importing them."""

_IMAGE_SIZE = 224
BACKBONES = {
    **dict.fromkeys(("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"), _IMAGE_SIZE),
    **dict.fromkeys(("DenseNet121", "DenseNet169", "DenseNet201", "MobileNet", "MobileNetV2"), _IMAGE_SIZE),
    **dict.fromkeys(("MobileNetV3Small", "MobileNetV3Large", "NASNetMobile", "VGG16", "VGG19"), _IMAGE_SIZE),
    **dict.fromkeys(("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"), _IMAGE_SIZE),
    **dict.fromkeys(("InceptionV3", "InceptionResNetV2", "Xception"), 299),
    **dict(zip((f"EfficientNetB{i}" for i in range(8)), (224, 240, 260, 300, 380, 456, 528, 600), strict=True)),
    **dict(zip((f"EfficientNetV2B{i}" for i in range(4)), (224, 240, 260, 300), strict=True)),
    **dict.fromkeys(("EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L"), 384) | {"NASNetLarge": 331},
}
"""The networks of `keras.applications`, and the side in pixels of the images that each was made for."""
