"""All experiments, or some: ``python examples/experiments``, ``--help`` for the options."""

import os
import sys

# Before PyTorch is loaded. Threads that wait busily for each other stall where other programs share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import aliasing_and_robustness
    import cost
    import downsampling
    import early_stopping
    import frequency_components
    import fully_connected
    import overfitting
    import published_sizes
    from lab.command import main
except KeyboardInterrupt:
    sys.exit(130)
except ModuleNotFoundError as error:
    sys.exit(f"The experiments need {error.name}, not installed here: pip install 'alias-ops[experiments]'.")

EXPERIMENTS = [
    module.EXPERIMENT
    for module in (
        aliasing_and_robustness,
        overfitting,
        early_stopping,
        downsampling,
        fully_connected,
        frequency_components,
        published_sizes,
        cost,
    )
]

if __name__ == "__main__":
    try:
        sys.exit(main(EXPERIMENTS))
    except KeyboardInterrupt:
        sys.exit(130)
