"""Jobs over many machines: shards of one job taken from a shared folder by any number of workers, each result once.

``storage`` says what is asked of the shared folder, ``leases`` who is at work on which shard, ``queue`` how the next
one is found and a result kept; these know nothing of models. ``tasks`` says what a shard is computed from, ``worker``
joins the two. docs/clusters.md has the guarantees.
"""
