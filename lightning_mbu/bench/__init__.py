"""`mbu bench`: packed networks against everything else that would run the same network on this processor.

models ─► job ─► process of its own: prove, then time ─► results ─► tables, plot, JSON
suite     isa    worker: compare (rivals, runtimes), layers, memory    show, plot
"""
