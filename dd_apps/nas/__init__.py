"""Architecture search on NNI with distilled sets as proxies.

`measures` are the zero-cost measures that a proxy has to beat: numbers read off an untrained network.
`spaces` are search spaces of NNI, `truth` a user's table of accuracies, and `ranking` says how well a proxy ranks.
"""
