"""This package holds the staged spaces of NDS: ResNet, ResNeXt-A, ResNeXt-B, Vanilla."""
