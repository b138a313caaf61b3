"""``python -m ndvi_scale``: the command line."""

from ndvi_scale.cli import main

if __name__ == "__main__":
    main()
