"""Data sets: tables in the paper's layout, public corpora, the synthetic world, files of examples."""
