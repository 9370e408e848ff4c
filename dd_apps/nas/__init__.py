"""Architecture search on NNI with distilled sets as proxies.

`proxies` score one untrained network, and are evaluators of NNI. `measures` are the zero-cost measures that a proxy has
to beat: numbers computed from an untrained network. `spaces` are search spaces of NNI. `truth` is a user's table of
accuracies, `trained_truth` gets accuracies by full training, and `ranking` says how well a proxy ranks. `kit` holds all
that a process needs to score architectures, and `scores` scores them in parallel. `search` lets NNI's strategies try
samples of a space: `strategies` has its settings, `engine` and `streaming` are the engines that run models for NNI,
`trials` has the job of a worker, and `timing` turns a budget in seconds into trials. `config` has the scenarios of the
tasks `nas-rank` and `nas-search`, `rank_task` and `search_task` run them, `reporting` has their tables and plots.
"""
