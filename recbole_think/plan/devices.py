"""What the machines of a plan could do at best, from their data sheets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One GPU, or the cores of one small machine."""

    flops_per_s: float  # of dense matrix products
    bytes_per_s: float  # of its own memory
    memory_bytes: float
    number_bytes: int  # of a number in those products: 2 = bfloat16, 4 = float32
    source: str


DEVICES = {
    "h100": Device(989e12, 3.35e12, 80e9, 2, "NVIDIA H100 data sheet: SXM, bfloat16 without sparsity"),
    "h200": Device(989e12, 4.8e12, 141e9, 2, "NVIDIA H200 data sheet: SXM, bfloat16 without sparsity"),
    "a100": Device(312e12, 2.039e12, 80e9, 2, "NVIDIA A100 data sheet: SXM 80 GB, bfloat16 without sparsity"),
    "l4": Device(121e12, 0.3e12, 24e9, 2, "NVIDIA L4 data sheet: bfloat16 without sparsity, half of what it prints"),
    "cpu-avx2": Device(
        100e9, 20e9, 24e9, 4, "two cores of an AMD EPYC with AVX2, float32, as measured by benchmarks/scale.py"
    ),
}
