"""`make test-web` runs the tests in `browser`, which need Gradio and Chromium; `make test` does not."""

collect_ignore = ["browser"]
