"""Where desired state comes from: a directory is read into Revisions, again after every change.

Law: an app whose files did not change is neither read nor parsed again; nothing outside of the directory is read, links
followed; what is not settled yet (half-written, just gone, just broken) leaves what was known before in force.
"""
