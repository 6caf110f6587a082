"""Reference cases made by running the methods' official code, run through Taut's public classes.

    python -m benchmarks.conformance FOLDER [--json OUT]

A folder holds NAME.json files, {source, cases: [{inputs, params, expected}]}. An adapter turns a case into (got, wanted)
pairs: it builds a batch and a configuration and calls a public class; it holds no arithmetic. One module a family,
`ADAPTERS` in each maps the file's name to its adapter.
"""
