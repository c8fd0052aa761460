"""Pictures of result files: curves, timelines and mixing graphs, as figures by matplotlib and in the terminal by plotext."""
