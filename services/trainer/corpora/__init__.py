"""The text the kernels learn from: fetched by digest, read without running anything, split for ever by its content.

    corpora.lock.json ─ fetch ─▶ archives in a cache ─ extract ─▶ documents ─ duplicates, seed ─▶ data/*.jsonl.gz

`document.documents` and `split.split` are all that training needs: they read the committed slice and know no archive.
"""
