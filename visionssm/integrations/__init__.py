"""Bridges to other libraries; each module imports its library where it is used and names the extra to install."""
