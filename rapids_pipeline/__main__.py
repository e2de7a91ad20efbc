"""`python -m rapids_pipeline` is `rapids-perturb`."""

from rapids_pipeline.commands.app import main

if __name__ == "__main__":
    main()
