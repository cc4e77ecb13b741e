"""The worker as RunPod starts it, and where its Hub looks for one: docs/runpod.md."""
# ruff: noqa: INP001 -- started as a file, not a package

from services.trainer.app.worker import main

if __name__ == "__main__":
    main()
