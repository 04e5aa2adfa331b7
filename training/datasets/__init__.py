"""Data sets: tables in the paper's layout, public corpora, the synthetic world and files of examples."""
