"""pushd: a porter between devices and back-end services. It carries messages and knows no business."""

__version__ = "0.1.0"
