"""Architecture search on NNI with distilled sets as proxies.

`measures` are the zero-cost measures that a proxy has to beat: numbers read off an untrained network.
"""
