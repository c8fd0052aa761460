"""What every algorithm, graph, compressor, problem and sink must keep to, as rules that can be tried on any class.

The tests try them on everything that is registered, `coopmpi check` on a user's own class.
"""
