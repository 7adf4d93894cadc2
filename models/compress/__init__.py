"""From one trained ONNX file to a measured family of variants: `gearshift compress`."""
