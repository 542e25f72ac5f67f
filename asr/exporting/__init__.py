"""Models as ONNX graphs: `export` writes a folder that onnxruntime runs without PyTorch."""

from asr.exporting.folder import METADATA, export

__all__ = ["METADATA", "export"]
