"""Pages that need nothing but a browser: template, style and scripts, put into one file each by `page.py`."""
