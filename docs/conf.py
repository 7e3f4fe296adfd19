"""Sphinx's settings for these pages: sphinx-build -W -b html docs FOLDER."""

project = "cnn-sweeps"
extensions = ["myst_parser"]
myst_heading_anchors = 3  # links to headings, as on GitHub
highlight_language = "none"
html_theme = "furo"
html_title = project
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["wide.css"]
