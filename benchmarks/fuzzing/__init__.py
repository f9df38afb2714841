"""Search for inputs that are not handled: mutated files and environments, read by the functions of CLOUDS.

`mutation` changes trees, bytes and files; `inputs` has one module for each kind of input; `verdict` decides whether
what happened is right; `guard` records writes outside the folder of the input; `pool` runs inputs in worker processes.
"""
