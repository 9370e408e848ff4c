"""The conformance kit over every task of the command line."""

from __future__ import annotations

from dd_apps.testing import TaskConformance

DM = '{ name = "dm", steps = 2, batch_real = 16, recipe = { network = "convnet-1-w4", epochs = 2 } }'


class TestDistill(TaskConformance):
    scenario = f'task = "distill"\ndata = "digits"\nipc = 1\nnets = 2\nmethod = {DM}\n'


class TestStudy(TaskConformance):
    scenario = f'task = "study"\ndata = "digits"\nclasses = [2]\nlabel_noise = [0.0, 0.2]\nnets = 1\nmethod = {DM}\n'


class TestContinual(TaskConformance):
    scenario = (
        f'task = "continual"\ndata = "digits"\norders = 1\nexperiences = 2\nworkers = 1\nmethod = {DM}\n'
        'network = "convnet-1-w4"\nrows = ["distilled", "real"]\nreplay = { epochs = 1 }\nretraining = { epochs = 2 }\n'
    )


class TestNasRank(TaskConformance):
    scenario = (
        'task = "nas-rank"\ndata = "digits"\nimages = 300\nspace = { name = "convnets", max_width = 32 }\n'
        'architectures = ["convnet-1-w32-relu", "convnet-1-w32-batchnorm-relu", "convnet-2-w32-relu"]\n'
        "truth = { epochs = 1, seeds = 2 }\n"
        'proxies = [{ kind = "distilled", set = "mine", passes = 9 }, { kind = "zero-cost", measure = "parameters" }]\n'
        f'averages = [["mine", "parameters"]]\n[sets.mine]\nipc = 1\nmethod = {DM}\n'
    )


class TestNasSearch(TaskConformance):
    scenario = (
        'task = "nas-search"\ndata = "digits"\nimages = 300\nspace = { name = "convnets", max_width = 32 }\n'
        'max_trials = 6\nstrategy = { name = "evolution", population_size = 3, sample_size = 2 }\n'
        'proxy = { kind = "zero-cost", measure = "naswot", images = 16 }\n'
    )


class TestTransfer(TaskConformance):
    scenario = (
        'task = "transfer"\ndata = "digits"\nclasses = [0, 1, 2]\nimages = 60\nbackbones = ["convnet-1-w4", "lenet"]\n'
        'targets = [{ data = "digits", classes = [3, 4], train = 40, test = 20 }]\nseeds = 1\nfractions = [0.1, 1.0]\n'
        'scores = [{ kind = "fine-tune", steps = 2 }]\n'
        'rows = [{ kind = "none" }, { kind = "set", set = "mine" }, { kind = "random", like = "mine" }]\n'
        f"[sets.mine]\nipc = 1\nmethod = {DM}\n"
    )


class TestCompare(TaskConformance):
    scenario = (
        'task = "compare"\ndata = "digits"\nipcs = [1]\nnetworks = ["convnet-1-w4"]\nseeds = 2\n'
        f'baselines = ["random", "average"]\n[methods]\ndm = {DM}\n'
    )
