"""Networks in other forms: C source (c_source.py and what it is put together from), ONNX (onnx_file.py)."""
