"""Do the tests notice small changes of the code? python -m tests.mutants 20 [--seed 1] [--area kernels]

A mutant is the package with one place changed: a number, a comparison, an operator, a condition, or a statement that is
left out (`changes`). A mutant whose area's tests (`areas`) all pass has survived: either the change makes no difference
that can be observed, or a test is missing.

What a mutant costs is little more than its tests. A recording run (`recording`) knows which tests execute which line,
so that only those run which can notice, the quickest first, until one fails (`judge`). They run in a fork of a process
that has imported PyTorch and pytest before, but nothing of the package (`forks`).
"""
