"""What people look at: progress while a run goes on, and tables of what came out."""
