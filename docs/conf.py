"""Sphinx's settings for these pages: sphinx-build -W -b html docs FOLDER."""

project = "cnn-sweeps"
html_title = project
extensions = ["myst_parser"]
myst_heading_anchors = 3  # links to headings, as GitHub has them
highlight_language = "none"
html_theme = "furo"
