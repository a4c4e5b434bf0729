"""The DeepLab family: atrous convolution from a dilated VGG-16 (v1) to an encoder and a decoder (v3+)."""
