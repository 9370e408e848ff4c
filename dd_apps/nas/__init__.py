"""Architecture search on NNI with distilled sets as proxies.

`proxies` score one untrained network, and are evaluators of NNI. `measures` are the zero-cost measures that a proxy has
to beat: numbers read off an untrained network. `spaces` are search spaces of NNI, `truth` a user's table of accuracies,
`trained_truth` that of full training, and `ranking` says how well a proxy ranks. `kit` is what every process needs to
score architectures, and `scores` has them scored in parallel. `search` has NNI's strategies try samples of a space;
`strategies` are its settings, `engine` and `streaming` what NNI runs models on, `trials` what a worker does, `timing`
how a budget in seconds becomes trials. `config` has the scenarios of the tasks `nas-rank` and `nas-search`, `rank_task`
and `search_task` run them, `reporting` has their tables and plots.
"""
