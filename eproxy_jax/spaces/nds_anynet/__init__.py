"""The staged spaces of NDS: ResNet, ResNeXt-A, ResNeXt-B, Vanilla."""
