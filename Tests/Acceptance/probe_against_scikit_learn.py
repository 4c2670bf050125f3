#!/usr/bin/env python3
"""Holds `graft probe` against scikit-learn on the same features.

    pip install numpy scikit-learn
    python Tests/Acceptance/probe_against_scikit_learn.py --graft .build/release/graft TRAIN.npz VAL.npz

TRAIN.npz and VAL.npz come from `graft extract`, of one layer each, or name it with --layer. Compared are

- the objective C·Σ cross entropy + ½‖w‖² of LogisticRegression after StandardScaler, at every C of the grid: Graft's must
  not differ by more than a millionth;
- top-1 on VAL.npz with the C that each side chose, scikit-learn by five-fold cross validation over the same grid;
- top-1 of KNeighborsClassifier(metric="cosine") for the K that Graft chose and for some others: at most one image apart,
  for ties.

Exit code 1 when one of these does not hold.
"""

import argparse
import json
import subprocess
import sys
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

GRID = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3]


def read(path, layer):
    arrays = np.load(path)
    names = [name for name in arrays.files if name not in ("labels", "paths", "classes", "metadata")]
    name = layer or names[0]
    return arrays[name].reshape(len(arrays["labels"]), -1).astype(np.float64), arrays["labels"], name


def objective(model, x, y, c):
    scores = model.decision_function(x)
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    highest = scores.max(axis=1)
    loss = highest + np.log(np.exp(scores - highest[:, None]).sum(axis=1)) - scores[np.arange(len(y)), y]
    return c * loss.sum() + 0.5 * (model.coef_**2).sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", required=True)
    parser.add_argument("--layer")
    parser.add_argument("train")
    parser.add_argument("val")
    options = parser.parse_args()
    x, y, layer = read(options.train, options.layer)
    x_val, y_val, _ = read(options.val, layer)
    print(f"{layer}: {x.shape[0]} images to fit, {x_val.shape[0]} to measure, {x.shape[1]} numbers, {y.max() + 1} classes")

    def graft(*arguments):
        command = [options.graft, "probe", options.train, "--layer", layer, "--val", options.val, "--json", "--quiet"]
        return json.loads(subprocess.run(command + list(arguments), check=True, capture_output=True, text=True).stdout)

    failures = []
    scaler = StandardScaler().fit(x)
    scaled, scaled_val = scaler.transform(x), scaler.transform(x_val)
    print("\n       C   objective, scikit-learn      objective, graft  difference  steps  top-1 scikit-learn  top-1 graft")
    for c in GRID:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=c, tol=1e-10, max_iter=200_000).fit(scaled, y)
        expected = objective(model, scaled, y, c)
        found = graft("--c", repr(c))
        difference = found["objective"] / expected - 1
        theirs = int((model.predict(scaled_val) == y_val).sum())
        ours = found["validation"]["top1_correct"]
        print(
            f"{c:8g} {expected:25.15g} {found['objective']:21.15g} {difference:11.1e} {found['iterations']:6d}"
            f" {theirs:9d} of {len(y_val):5d} {ours:12d}"
        )
        # Lower than scikit-learn's by more would mean that scikit-learn has not converged.
        if abs(difference) > 1e-6:
            failures.append(f"objective at C {c}: {difference:.1e} apart")
        if abs(theirs - ours) > 1:
            failures.append(f"top-1 at C {c}: {theirs} and {ours}")

    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000)), {"logisticregression__C": GRID}, cv=5
    ).fit(x, y)
    theirs = search.score(x_val, y_val)
    found = graft()
    ours = found["validation"]["top1"]
    noise = 2 * np.sqrt(theirs * (1 - theirs) / len(y_val)) + 1 / len(y_val)
    print(
        f"\nchosen C: scikit-learn {search.best_params_['logisticregression__C']:g} by five-fold cross validation, top-1"
        f" {theirs:.4f}; graft {found['c']:g} by a held-out fifth, top-1 {ours:.4f}; two standard errors {noise:.4f}"
    )
    if abs(theirs - ours) > noise:
        failures.append(f"top-1 with the chosen C: {theirs:.4f} and {ours:.4f}")

    chosen = graft("--method", "knn")
    print(f"\nneighbours chosen by graft: {chosen['k']}")
    for k in sorted({chosen["k"], 1, 5, 15}):
        model = KNeighborsClassifier(n_neighbors=k, metric="cosine").fit(x, y)
        theirs = int((model.predict(x_val) == y_val).sum())
        ours = graft("--method", "knn", "--k", str(k))["validation"]["top1_correct"]
        print(f"K {k:3d}: top-1 scikit-learn {theirs} of {len(y_val)}, graft {ours}")
        # An even vote is decided by the closest here and by the smallest label there.
        if abs(theirs - ours) > (1 if k % 2 and y.max() == 1 else max(1, len(y_val) // 50)):
            failures.append(f"top-1 of {k} neighbours: {theirs} and {ours}")

    for failure in failures:
        print("FAILED:", failure)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
