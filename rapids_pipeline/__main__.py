"""`python -m rapids_pipeline` is `rapids-perturb`."""

from rapids_pipeline.cli import main

if __name__ == "__main__":
    main()
