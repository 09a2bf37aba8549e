"""Programs that train LightGCN, each in a process of its own, for `bench peers`.

All but `ours` need torch and numpy only, and the package that they are named after, so that they run in an environment where
this package is not installed.
"""
