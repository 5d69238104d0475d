"""What must outlive the process: the database, atomic files and where everything lies on disk.

Law: every write is durable or atomic; readers cope with whatever a crash left behind.
"""
