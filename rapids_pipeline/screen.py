"""`python -m rapids_pipeline.screen` is `rapids-perturb screen`."""

from rapids_pipeline.__main__ import main

if __name__ == "__main__":
    main("screen")
