"""Growth of time and memory with the size of the work.

    python -m experiments.benchmarks.growth
    python -m experiments.benchmarks.growth --cases=cka_matrix,linear_cka

Each case runs at three sizes, every size in a process of its own. To add a case, write
a `case.Case` in a module here and list the module's cases in `cases.CASES`.
"""
