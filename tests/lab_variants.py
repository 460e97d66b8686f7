"""Wrong and right answers to the labs' exercises, by lab and exercise: what the checks have to say of each.

``WRONG`` answers fail their exercise's check, ``RIGHT`` ones pass it. The code runs in the lab's notebook after the
reference, which it may call ``good``.
"""

# Answers are programs of one line.
# ruff: noqa: E501
from __future__ import annotations

_RAW = "def {name}({given}): return {value}"


def _of(name: str, given: str, **values: str) -> dict[str, str]:
    """Variants of a function of one line, by what each does."""
    return {what: _RAW.format(name=name, given=given, value=value) for what, value in values.items()}


_QUOTIENT = "def quotient(W, x): return {}"
_PLAIN = """def plain_share(field, factor):
    y, f = np.ravel(field), np.ravel(factor)
    levels = np.unique(f)
    between = sum((f == l).sum() * (y[f == l].mean() - y.mean()) ** 2 for l in levels)
    total = ((y - y.mean()) ** 2).sum()
    mse = {mse}
    return {share}
"""
_BEYOND = """def share_beyond(field, factor, given):
    y = np.ravel(field)
    only, both = dummies({only}), np.hstack([dummies(given), dummies(factor)])
    rss = lambda design: ((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum()
    mse = rss(both) / ({n} - {rank})
    total = {total}
    return {share}
"""
_SHARE = "max(0.0, (rss(only) - rss(both) - (np.linalg.matrix_rank(both) - np.linalg.matrix_rank(only)) * mse) / (total + mse))"
_GOOD_BEYOND = {
    "only": "given",
    "n": "len(y)",
    "rank": "np.linalg.matrix_rank(both)",
    "total": "((y - y.mean()) ** 2).sum()",
    "share": _SHARE,
}
_BOOTSTRAP = """def bootstrap(field, labels, of="images", n=200, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        if of == "images":
            {images}
        else:
            {patches}
    return {result}
"""
_GOOD_BOOTSTRAP = {
    "images": "drawn = rng.integers(len(field), size=len(field)); found.append(plain_share(field[drawn], labels[drawn]))",
    "patches": "drawn = rng.integers(field.size, size=field.size); "
    "found.append(plain_share(field.ravel()[drawn], labels.ravel()[drawn]))",
    "result": "np.array(found)",
}
_ATTENTION = """def attention(query, key, special_key, scale):
    keys = np.concatenate([{order}], axis=1)
    logits = {logits}
    weights = np.exp(logits - {largest})
    return weights / weights.sum(axis={axis}, keepdims=True)
"""
_GOOD_ATTENTION = {
    "order": "special_key, key",
    "logits": "scale * query @ keys.transpose(0, 2, 1)",
    "largest": "logits.max(axis=-1, keepdims=True)",
    "axis": "-1",
}
_READABLE = """def readable(eig):
    groups = eig.degenerate_group.values
    alone = np.array([(groups == group).sum() == 1 for group in groups])
    keep = {keep}
    return {numbers}
"""
_GOOD_READABLE = {
    "keep": "eig.converged.values & (eig.eigenvalue.values <= 0.9) & alone",
    "numbers": "eig.component.values[keep].tolist()",
}
_REMOVED = "def removed(M, V, b): return {}"
_DECODE = """def decode(tokens, reference, labels, k=15):
    ours, theirs = {lengths}
    nearest = np.argsort({order}, axis=1, kind="stable")[:, :k]
    known = {known}
    votes = np.stack([(labels[nearest] == one).sum(axis=1) for one in known], axis=1)
    return {result}
"""
_GOOD_DECODE = {
    "lengths": "(one / np.linalg.norm(one, axis=1, keepdims=True) for one in (tokens, reference))",
    "order": "-(ours @ theirs.T)",
    "known": "np.unique(labels[labels >= 0])",
    "result": "np.where(votes.any(axis=1), known[votes.argmax(axis=1)], -1)",
}
_OUTCOMES = """def outcomes(decoded, own, donor):
    counted = {counted}
    kept, moved = (decoded == own)[counted].mean(), (decoded == donor)[counted].mean()
    return {result}
"""
_GOOD_OUTCOMES = {"counted": "(own != donor) & (own >= 0) & (donor >= 0)", "result": "kept, moved, 1 - kept - moved"}
_CHANCE = "def by_chance(decoded, own, donor): return np.{how}([outcomes(decoded, own, np.roll(donor, {shift}, axis=0))[{which}] for shift in range({first}, len(donor){last})])"
_GOOD_CHANCE = {"how": "mean", "shift": "-shift", "which": "1", "first": "1", "last": " - 1"}
_INTERVAL = """def interval(decoded, own, donor, n=500, seed=0):
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        drawn = {drawn}
        found.append({share})
    return {ends}
"""
_GOOD_INTERVAL = {
    "drawn": "rng.integers(len(own), size=len(own))",
    "share": "outcomes(decoded[drawn], own[drawn], donor[drawn])[1]",
    "ends": "tuple(np.percentile(found, [2.5, 97.5]))",
}

WRONG: dict[tuple[int, str], dict[str, str]] = {
    (1, "degrees"): {
        **_of("degrees", "W", **{"neighbours counted": "(W > 0).sum(axis=1)", "a row too many": "W.sum(axis=1)[None]"}),
        **_of("degrees", "W", **{"of six nodes": "sum(W[:, j] for j in range(6))", "the mean": "W.mean(axis=1)"}),
        **_of(
            "degrees", "W", **{"without loops": "W.sum(axis=1) - np.diag(W)", "the total": "np.full(len(W), W.sum())"}
        ),
        **_of("laplacian", "W", **{"the sign": "W - np.diag(degrees(W))", "degrees alone": "np.diag(degrees(W))"}),
        **_of("laplacian", "W", **{"divided by degrees": "np.eye(len(W)) - W / degrees(W)[:, None]"}),
        **_of("laplacian", "W", **{"twice": "2 * (np.diag(degrees(W)) - W)", "signless": "np.diag(degrees(W)) + W"}),
        **_of("laplacian", "W", **{"of a graph without loops": "np.diag(degrees(W)) - W + np.diag(np.diag(W))"}),
    },
    (1, "cut-values"): {
        **_of(
            "cut", "W, side", **{"both directions": "2 * W[side][:, ~side].sum()", "inside": "W[side][:, side].sum()"}
        ),
        **_of("cut", "W, side", **{"all of side A": "W[side].sum()", "edges counted": "(W[side][:, ~side] > 0).sum()"}),
        **_of("ncut", "W, side", **{"one side only": "cut(W, side) / degrees(W)[side].sum()"}),
        **_of("ncut", "W, side", **{"by nodes": "cut(W, side) / side.sum() + cut(W, side) / (~side).sum()"}),
        **_of("ncut", "W, side", **{"by all degrees": "2 * cut(W, side) / degrees(W).sum()"}),
        **_of(
            "ncut",
            "W, side",
            **{"the smaller side": "cut(W, side) / min(degrees(W)[side].sum(), degrees(W)[~side].sum())"},
        ),
        **_of(
            "ncut",
            "W, side",
            **{"by inner weight": "cut(W, side) / W[side][:, side].sum() + cut(W, side) / W[~side][:, ~side].sum()"},
        ),
    },
    (1, "brute-force"): {
        "hard-wired six": "good = bipartitions\ndef bipartitions(n): return good(6)",
        "lists": "good = bipartitions\ndef bipartitions(n): return [side.tolist() for side in good(n)]",
        "integers": "good = bipartitions\ndef bipartitions(n): return [side.astype(int) for side in good(n)]",
        "each twice": "good = bipartitions\ndef bipartitions(n): return [*good(n), *good(n)]",
        "the whole, too": "good = bipartitions\ndef bipartitions(n): return [*good(n), np.ones(n, bool)]",
        "one too few": "good = bipartitions\ndef bipartitions(n): return list(good(n))[1:]",
        "node 0 on side B": "good = bipartitions\ndef bipartitions(n): return [~side for side in good(n)]",
        "the value first": "good = best_bipartition\ndef best_bipartition(W, value): return good(W, value)[::-1]",
        "always the cut": "good = best_bipartition\ndef best_bipartition(W, value): return good(W, cut)",
        "always the normalised cut": "good = best_bipartition\ndef best_bipartition(W, value): return good(W, ncut)",
        "the largest": "good = best_bipartition\ndef best_bipartition(W, value): side, least = good(W, lambda W, s: -value(W, s)); return side, -least",
        "the first side": "good = best_bipartition\ndef best_bipartition(W, value): return next(bipartitions(len(W))), good(W, value)[1]",
        "of the six nodes": "good, six = best_bipartition, W\ndef best_bipartition(W, value): return good(six, value)",
        "balanced ones only": "def best_bipartition(W, value):\n    sides = [s for s in bipartitions(len(W)) if abs(s.sum() - len(W) / 2) < 1]\n    best = min(sides, key=lambda s: value(W, s))\n    return best, value(W, best)",
    },
    (1, "eigenvectors"): {
        "zeros": "good = generalised_eigenvectors\ndef generalised_eigenvectors(W): return good(W)[0], 0 * good(W)[1]",
        "zeros after the first": "good = generalised_eigenvectors\ndef generalised_eigenvectors(W):\n    a, b = good(W); b[:, 1:] = 0\n    return a, b",
        "one a row": "good = generalised_eigenvectors\ndef generalised_eigenvectors(W): a, b = good(W); return a, b.T",
        "descending": "good = generalised_eigenvectors\ndef generalised_eigenvectors(W): a, b = good(W); return a[::-1], b[:, ::-1]",
        "not turned back": "def generalised_eigenvectors(W):\n    r = np.sqrt(degrees(W))\n    return np.linalg.eigh(laplacian(W) / np.outer(r, r))",
        "of L alone": "def generalised_eigenvectors(W): return np.linalg.eigh(laplacian(W))",
        "of six nodes": "good, six = generalised_eigenvectors, W\ndef generalised_eigenvectors(W): return good(six)",
        "without the constant": "good = generalised_eigenvectors\ndef generalised_eigenvectors(W): a, b = good(W); return a[1:], b[:, 1:]",
        "two columns alike": "good = generalised_eigenvectors\ndef generalised_eigenvectors(W):\n    a, b = good(W); a[2], b[:, 2] = a[1], b[:, 1]\n    return a, b",
        "times the root": "def generalised_eigenvectors(W):\n    r = np.sqrt(degrees(W)); a, b = np.linalg.eigh(laplacian(W) / np.outer(r, r))\n    return a, b * r[:, None]",
        "eigenvalues of the walk": "good = generalised_eigenvectors\ndef generalised_eigenvectors(W): a, b = good(W); return 1 - a, b",
    },
    (1, "quotient"): {
        "rescaled": "good = bipartition_vector\ndef bipartition_vector(W, side): return 5 * good(W, side)",
        "of unit length": "good = bipartition_vector\ndef bipartition_vector(W, side): x = good(W, side); return x / np.linalg.norm(x)",
        "other sign": "good = bipartition_vector\ndef bipartition_vector(W, side): return -good(W, side)",
        "one over nodes": "def bipartition_vector(W, side): return np.where(side, 1 / side.sum(), -1 / (~side).sum())",
        "plus and minus one": "def bipartition_vector(W, side): return np.where(side, 1.0, -1.0)",
        "volumes exchanged": "def bipartition_vector(W, side): return np.where(side, 1 / degrees(W)[~side].sum(), -1 / degrees(W)[side].sum())",
        "without D": _QUOTIENT.format("(x @ laplacian(W) @ x) / (x @ x)"),
        "the normalised cut of a sign": _QUOTIENT.format("ncut(W, x > 0)"),
        "W in place of L": _QUOTIENT.format("(x @ W @ x) / (x @ (degrees(W) * x))"),
        "not divided": _QUOTIENT.format("x @ laplacian(W) @ x"),
    },
    (1, "round"): {
        "by sign": "def best_threshold(W, x): return x > 0, ncut(W, x > 0)",
        "by the median": "def best_threshold(W, x): return x > np.median(x), ncut(W, x > np.median(x))",
        "the value first": "good = best_threshold\ndef best_threshold(W, x): return good(W, x)[::-1]",
        "by the cut": "def best_threshold(W, x):\n    side = min((x > t for t in np.unique(x)[:-1]), key=lambda s: cut(W, s))\n    return side, ncut(W, side)",
        "without the smallest": "def best_threshold(W, x):\n    side = min((x > t for t in np.unique(x)[1:-1]), key=lambda s: ncut(W, s))\n    return side, ncut(W, side)",
        "the eigenvalue": "good = best_threshold\ndef best_threshold(W, x): return good(W, x)[0], quotient(W, x)",
        "best of all": "def best_threshold(W, x): return best_bipartition(W, ncut)",
    },
    (1, "picture-cut"): {
        "hard-wired 12 x 12": "def image_fiedler(W, shape):\n    a, b = generalised_eigenvectors(W)\n    return a[1], b[:, 1].reshape(12, 12)",
        "the third": "def image_fiedler(W, shape):\n    a, b = generalised_eigenvectors(W)\n    return a[2], b[:, 2].reshape(shape)",
        "the constant": "def image_fiedler(W, shape):\n    a, b = generalised_eigenvectors(W)\n    return a[0], b[:, 0].reshape(shape)",
        "flat": "def image_fiedler(W, shape):\n    a, b = generalised_eigenvectors(W)\n    return a[1], b[:, 1]",
        "column by column": "def image_fiedler(W, shape):\n    a, b = generalised_eigenvectors(W)\n    return a[1], b[:, 1].reshape(shape[::-1]).T",
        "a row of the vectors": "def image_fiedler(W, shape):\n    a, b = generalised_eigenvectors(W)\n    return a[1], b[1].reshape(shape)",
    },
    (1, "joint"): {
        "hard-wired 144": "def joint_affinity(affinities): return sum(one * (144 / one.sum()) for one in affinities)",
        "not scaled": "def joint_affinity(affinities): return sum(affinities)",
        "the mean": "good = joint_affinity\ndef joint_affinity(affinities): return good(affinities) / len(affinities)",
        "to one": "def joint_affinity(affinities): return sum(one / one.sum() for one in affinities)",
        "scaled in place": "def joint_affinity(affinities):\n    for one in affinities: one *= len(one) / one.sum()\n    return sum(affinities)",
        "by the largest": "def joint_affinity(affinities): return sum(one / one.max() for one in affinities)",
    },
    (2, "attention"): {
        "patches first": _ATTENTION.format(**{**_GOOD_ATTENTION, "order": "key, special_key"}),
        "no scale": _ATTENTION.format(**{**_GOOD_ATTENTION, "logits": "query @ keys.transpose(0, 2, 1)"}),
        "columns sum to 1": _ATTENTION.format(**{**_GOOD_ATTENTION, "axis": "-2"}),
        "overflow": _ATTENTION.format(**{**_GOOD_ATTENTION, "largest": "0"}),
        "divided by the scale": _ATTENTION.format(
            **{**_GOOD_ATTENTION, "logits": "query @ keys.transpose(0, 2, 1) / scale"}
        ),
        "without special tokens": "def attention(query, key, special_key, scale):\n    e = np.exp(scale * query @ key.transpose(0, 2, 1))\n    return e / e.sum(-1, keepdims=True)",
        "scale squared": _ATTENTION.format(
            **{**_GOOD_ATTENTION, "logits": "scale**2 * query @ keys.transpose(0, 2, 1)"}
        ),
        "the channels' own scale": _ATTENTION.format(
            **{**_GOOD_ATTENTION, "logits": "32**-0.5 * query @ keys.transpose(0, 2, 1)"}
        ),
    },
    (2, "qk-graph"): {
        "not symmetric": "def qk_graph(attention, n_special): return attention[:, :, n_special:].mean(axis=0)",
        "twice": "good = qk_graph\ndef qk_graph(attention, n_special): return 2 * good(attention, n_special)",
        "heads added": "good = qk_graph\ndef qk_graph(attention, n_special): return len(attention) * good(attention, n_special)",
        "the first columns": "def qk_graph(attention, n_special): return ((attention[:, :, :-n_special] + attention[:, :, :-n_special].transpose(0, 2, 1)) / 2).mean(axis=0)",
        "always five": "def qk_graph(attention, n_special):\n    p = attention[:, :, 5:]\n    return ((p + p.transpose(0, 2, 1)) / 2).mean(axis=0)",
        "rows scaled again": "good = qk_graph\ndef qk_graph(attention, n_special): w = good(attention, n_special); return w / w.sum(axis=1, keepdims=True)",
        "always four heads": "def qk_graph(attention, n_special):\n    p = attention[:, :, n_special:]\n    return ((p + p.transpose(0, 2, 1)) / 2).sum(axis=0) / 4",
    },
    (2, "asymmetry"): {
        **_of(
            "asymmetry",
            "matrix",
            **{"turned over": "np.linalg.norm(matrix + matrix.T) / np.linalg.norm(matrix - matrix.T)"},
        ),
        **_of(
            "asymmetry",
            "matrix",
            **{"absolute values": "np.abs(matrix - matrix.T).sum() / np.abs(matrix + matrix.T).sum()"},
        ),
        **_of("asymmetry", "matrix", **{"by the matrix": "np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix)"}),
        **_of(
            "asymmetry",
            "matrix",
            **{"the spectral norm": "np.linalg.norm(matrix - matrix.T, 2) / np.linalg.norm(matrix + matrix.T, 2)"},
        ),
        **_of(
            "asymmetry", "matrix", **{"not the root": "((matrix - matrix.T)**2).sum() / ((matrix + matrix.T)**2).sum()"}
        ),
        **_of("asymmetry", "matrix", **{"zero": "0.0", "not divided": "np.linalg.norm(matrix - matrix.T)"}),
    },
    (2, "vv-graph"): {
        "negative ones": "def vv_graph(value, threshold=0.1):\n    u = value / np.linalg.norm(value, axis=-1, keepdims=True)\n    return (u @ u.transpose(0, 2, 1)).mean(axis=0)",
        "no threshold": "good = vv_graph\ndef vv_graph(value, threshold=0.1): return good(value)",
        "not normalised": "def vv_graph(value, threshold=0.1):\n    c = value @ value.transpose(0, 2, 1)\n    return np.where(c > threshold, c, 0).mean(axis=0)",
        "mean first": "def vv_graph(value, threshold=0.1):\n    u = value / np.linalg.norm(value, axis=-1, keepdims=True)\n    c = (u @ u.transpose(0, 2, 1)).mean(axis=0)\n    return np.where(c > threshold, c, 0)",
        "ones above it": "def vv_graph(value, threshold=0.1):\n    u = value / np.linalg.norm(value, axis=-1, keepdims=True)\n    return 1.0 * ((u @ u.transpose(0, 2, 1)) > threshold).mean(axis=0)",
        "less the threshold": "def vv_graph(value, threshold=0.1):\n    u = value / np.linalg.norm(value, axis=-1, keepdims=True)\n    return np.maximum(u @ u.transpose(0, 2, 1) - threshold, 0).mean(axis=0)",
        "all heads as one": "def vv_graph(value, threshold=0.1):\n    v = np.concatenate(list(value), axis=1)\n    u = v / np.linalg.norm(v, axis=-1, keepdims=True)\n    return np.where(u @ u.T > threshold, u @ u.T, 0)",
    },
    (2, "measures"): {
        **_of(
            "mean_distance",
            "W",
            **{"with loops": "(W * distances).sum() / W.sum()", "not weighted": "distances[W > 0].mean()"},
        ),
        **_of("mean_distance", "W", **{"the median": "np.median(distances[(W > 0) & (distances > 0)])"}),
        **_of("mean_distance", "W", **{"in image widths": "(W * distances).sum() / (W * (distances > 0)).sum() / 12"}),
        **_of(
            "same_label",
            "W",
            **{"with loops ": "(W * same).sum() / W.sum()", "edges counted": "same[(W > 0) & (distances > 0)].mean()"},
        ),
        **_of("same_label", "W", **{"the others": "(W * ~same).sum() / (W * (distances > 0)).sum()"}),
        **_of(
            "same_label_far",
            "W",
            **{"4 is far": "same_label(W * (distances >= 4))", "near ones": "same_label(W * (distances <= 4))"},
        ),
        **_of(
            "same_label_far",
            "W",
            **{"of all weight": "(W * same * (distances > 4)).sum() / (W * (distances > 0)).sum()"},
        ),
        **_of("same_label_far", "W", **{"all edges": "same_label(W)"}),
    },
    (2, "heads"): {
        **_of(
            "distance_of_heads",
            "layer",
            **{
                "the mean four times": "[mean_distance(st.affinity(activations, 'qk', layers=[layer]).to_dense(image)[layer])] * 4"
            },
        ),
        "in reverse": "good = distance_of_heads\ndef distance_of_heads(layer): return good(layer)[::-1]",
        "values": "def distance_of_heads(layer):\n    g = st.affinity(activations, 'vv', heads='each', layers=[layer]).to_dense(image)\n    return [mean_distance(g[f'{layer}[{h}]']) for h in range(4)]",
        "three heads": "good = distance_of_heads\ndef distance_of_heads(layer): return good(layer)[:3]",
    },
    (3, "plain-share"): {
        "eta squared": _PLAIN.format(mse="0", share="between / total"),
        "below 0": _PLAIN.format(
            mse="(total - between) / (len(y) - len(levels))",
            share="(between - (len(levels) - 1) * mse) / (total + mse)",
        ),
        "k and not k - 1": _PLAIN.format(
            mse="(total - between) / (len(y) - len(levels))",
            share="max(0.0, (between - len(levels) * mse) / (total + mse))",
        ),
        "without MSE below": _PLAIN.format(
            mse="(total - between) / (len(y) - len(levels))",
            share="max(0.0, (between - (len(levels) - 1) * mse) / total)",
        ),
        "n - 1": _PLAIN.format(
            mse="(total - between) / (len(y) - 1)",
            share="max(0.0, (between - (len(levels) - 1) * mse) / (total + mse))",
        ),
        "one": "def plain_share(field, factor): return 1.0",
        "correlation": "def plain_share(field, factor): return np.corrcoef(np.ravel(field), np.ravel(factor))[0, 1] ** 2",
    },
    (3, "share-beyond"): {
        "factors exchanged": "good = share_beyond\ndef share_beyond(field, factor, given): return good(field, given, factor)",
        "the plain share": "def share_beyond(field, factor, given): return plain_share(field, factor)",
        "a difference of plain shares": "def share_beyond(field, factor, given): return max(0.0, plain_share(field, factor) - plain_share(field, given))",
        "no correction": _BEYOND.format(**{**_GOOD_BEYOND, "share": "(rss(only) - rss(both)) / total"}),
        "of what is left": _BEYOND.format(**{**_GOOD_BEYOND, "total": "rss(only)"}),
        "not centred": _BEYOND.format(**{**_GOOD_BEYOND, "total": "(y**2).sum()"}),
        "columns counted": _BEYOND.format(**{**_GOOD_BEYOND, "rank": "both.shape[1]"}),
        "below 0": _BEYOND.format(**{**_GOOD_BEYOND, "share": _SHARE.removeprefix("max(0.0, ")[:-1]}),
    },
    (3, "four"): {
        "exchanged": "good = where_and_what\ndef where_and_what(eig, labels): return good(eig, labels)[::-1]",
        "plain": "def where_and_what(eig, labels): return np.mean([plain_share(f, positions) for f in fields(eig)]), np.mean([plain_share(f, labels) for f in fields(eig)])",
        "the first only": "good = where_and_what\ndef where_and_what(eig, labels): return good(eig.isel(component=[0]), labels)",
        "the sum": "good = where_and_what\ndef where_and_what(eig, labels): a, b = good(eig, labels); return 6 * a, 6 * b",
    },
    (3, "shuffle"): {
        "in place": "def shuffled(labels, seed=0):\n    labels[:] = np.roll(labels, 1, axis=0)\n    return labels",
        "any permutation": "def shuffled(labels, seed=0): return labels[np.random.default_rng(seed).permutation(len(labels))]",
        "patches": "def shuffled(labels, seed=0): return np.random.default_rng(seed).permuted(labels, axis=1)",
        "the same": "def shuffled(labels, seed=0): return labels.copy()",
        "with replacement": "def shuffled(labels, seed=0): return labels[np.random.default_rng(seed).integers(len(labels), size=len(labels))]",
        "sixteen images": "def shuffled(labels, seed=0): return labels[np.roll(np.arange(16), 1)]",
        "reversed": "def shuffled(labels, seed=0): return labels[::-1]" + "[:, ::-1]",
    },
    (3, "bootstrap"): {
        name: _BOOTSTRAP.format(**{**_GOOD_BOOTSTRAP, **parts})
        for name, parts in {
            "field and labels drawn apart": {
                "images": "a, b = rng.integers(16, size=(2, 16)); found.append(plain_share(field[a], labels[b]))"
            },
            "patches and labels drawn apart": {
                "patches": "a, b = rng.integers(field.size, size=(2, field.size)); "
                "found.append(plain_share(field.ravel()[a], labels.ravel()[b]))"
            },
            "half as many images": {
                "images": "drawn = rng.integers(16, size=8); found.append(plain_share(field[drawn], labels[drawn]))"
            },
            "half as many patches": {
                "patches": "drawn = rng.integers(field.size, size=field.size // 2); "
                "found.append(plain_share(field.ravel()[drawn], labels.ravel()[drawn]))"
            },
            "positions shared across images": {
                "patches": "drawn = rng.integers(144, size=144); "
                "found.append(plain_share(field[:, drawn], labels[:, drawn]))"
            },
            "without replacement": {
                "images": "drawn = rng.permutation(16); found.append(plain_share(field[drawn], labels[drawn]))"
            },
            "no seed": {
                "images": "drawn = np.random.default_rng().integers(16, size=16); "
                "found.append(plain_share(field[drawn], labels[drawn]))"
            },
            "another draw for every patch": {
                "images": "d = rng.integers(16, size=field.shape); "
                "found.append(plain_share(np.take_along_axis(field, d, 0), np.take_along_axis(labels, d, 0)))"
            },
            "images for patches": {"patches": _GOOD_BOOTSTRAP["images"]},
            "patches for images": {"images": _GOOD_BOOTSTRAP["patches"]},
            "sorted": {"result": "np.array(found)[:100]"},
            "always 200": {"result": "np.resize(found, 200)"},
        }.items()
    },
    (4, "readable"): {
        "counted from 0": "good = readable\ndef readable(eig): return [number - 1 for number in good(eig)]",
        "places": _READABLE.format(**{**_GOOD_READABLE, "numbers": "(np.flatnonzero(keep) + 1).tolist()"}),
        "weak ones": _READABLE.format(**{**_GOOD_READABLE, "keep": "eig.converged.values & alone"}),
        "below 0.9": _READABLE.format(
            **{**_GOOD_READABLE, "keep": "eig.converged.values & (eig.eigenvalue.values < 0.9) & alone"}
        ),
        "shared ones": _READABLE.format(
            **{**_GOOD_READABLE, "keep": "eig.converged.values & (eig.eigenvalue.values <= 0.9)"}
        ),
        "unconverged ones": _READABLE.format(**{**_GOOD_READABLE, "keep": "(eig.eigenvalue.values <= 0.9) & alone"}),
        "all": "def readable(eig): return eig.component.values.tolist()",
        "none": "def readable(eig): return []",
    },
    (4, "overlap"): {
        "not squared": "def overlap(A, B):\n    p, q = np.linalg.qr(A)[0], np.linalg.qr(B)[0]\n    return np.linalg.norm(p.T @ q) / A.shape[1]",
        "no basis": "def overlap(A, B): return ((A.T @ B) ** 2).sum() / A.shape[1]",
        "unit columns": "def overlap(A, B):\n    p, q = (M / np.linalg.norm(M, axis=0) for M in (A, B))\n    return ((p.T @ q) ** 2).sum() / A.shape[1]",
        "vector by vector": "def overlap(A, B):\n    p, q = np.linalg.qr(A)[0], np.linalg.qr(B)[0]\n    return (np.diag(p.T @ q) ** 2).mean()",
        "always three": "good = overlap\ndef overlap(A, B): return good(A, B) * A.shape[1] / 3",
        "the mean cosine": "def overlap(A, B): return np.linalg.svd(np.linalg.qr(A)[0].T @ np.linalg.qr(B)[0])[1].mean()",
        "the largest": "def overlap(A, B): return np.linalg.svd(np.linalg.qr(A)[0].T @ np.linalg.qr(B)[0])[1].max() ** 2",
    },
    (5, "removed"): {
        "V orthonormal": _REMOVED.format("M - V @ (V.T * b) @ M"),
        "without degrees": _REMOVED.format("M - V @ np.linalg.pinv(V) @ M"),
        "what is removed": _REMOVED.format("V @ np.linalg.solve((V.T * b) @ V, (V.T * b) @ M)"),
        "degrees in one place": _REMOVED.format("M - V @ np.linalg.solve(V.T @ V, (V.T * b) @ M)"),
        "twice": _REMOVED.format("M - 2 * V @ np.linalg.solve((V.T * b) @ V, (V.T * b) @ M)"),
        "hard-wired 20": _REMOVED.format("M - V @ np.linalg.solve((V.T * b[:20]) @ V[:20], (V.T * b[:20]) @ M[:20])")
        + "  # of 20",
        "zeros": _REMOVED.format("0 * M"),
    },
    (5, "decode"): {
        "the dot product": _DECODE.format(**{**_GOOD_DECODE, "lengths": "tokens, reference"}),
        "the farthest": _DECODE.format(**{**_GOOD_DECODE, "order": "ours @ theirs.T"}),
        "the distance of tokens": _DECODE.format(
            **{**_GOOD_DECODE, "order": "np.linalg.norm(tokens[:, None] - reference[None], axis=2)"}
        ),
        "no label wins": _DECODE.format(**{**_GOOD_DECODE, "known": "np.unique(labels)"}),
        "the largest": _DECODE.format(
            **{**_GOOD_DECODE, "result": "np.where(votes.any(axis=1), known[::-1][votes[:, ::-1].argmax(axis=1)], -1)"}
        ),
        "never none": _DECODE.format(**{**_GOOD_DECODE, "result": "known[votes.argmax(axis=1)]"}),
        "the places of categories": _DECODE.format(
            **{**_GOOD_DECODE, "result": "np.where(votes.any(axis=1), votes.argmax(axis=1), -1)"}
        ),
        "the nearest alone": "good = decode\ndef decode(tokens, reference, labels, k=15): return good(tokens, reference, labels, 1)",
        "always fifteen": "good = decode\ndef decode(tokens, reference, labels, k=15): return good(tokens, reference, labels, 15)",
    },
    (5, "outcomes"): {
        "all patches": _OUTCOMES.format(**{**_GOOD_OUTCOMES, "counted": "np.ones(own.shape, bool)"}),
        "those without labels, too": _OUTCOMES.format(**{**_GOOD_OUTCOMES, "counted": "own != donor"}),
        "donors without labels, too": _OUTCOMES.format(**{**_GOOD_OUTCOMES, "counted": "(own != donor) & (own >= 0)"}),
        "moved first": _OUTCOMES.format(**{**_GOOD_OUTCOMES, "result": "moved, kept, 1 - kept - moved"}),
        "lost without -1": _OUTCOMES.format(
            **{
                **_GOOD_OUTCOMES,
                "result": "kept, moved, ((decoded != own) & (decoded != donor) & (decoded >= 0))[counted].mean()",
            }
        ),
        "numbers": _OUTCOMES.format(**{**_GOOD_OUTCOMES, "result": "kept * counted.sum(), moved * counted.sum(), 0"}),
    },
    (5, "chance"): {
        "the used donor, too": _CHANCE.format(**{**_GOOD_CHANCE, "first": "0"}),
        "its own, too": _CHANCE.format(**{**_GOOD_CHANCE, "last": ""}),
        "the other way": _CHANCE.format(**{**_GOOD_CHANCE, "shift": "shift"}),
        "kept": _CHANCE.format(**{**_GOOD_CHANCE, "which": "0"}),
        "the largest": _CHANCE.format(**{**_GOOD_CHANCE, "how": "max"}),
        "one shift": "def by_chance(decoded, own, donor): return outcomes(decoded, own, np.roll(donor, -1, axis=0))[1]",
    },
    (5, "interval"): {
        "own and donor drawn apart": _INTERVAL.format(
            **{**_GOOD_INTERVAL, "share": "outcomes(decoded[drawn], own, donor)[1]"}
        ),
        "patches": _INTERVAL.format(
            **{
                **_GOOD_INTERVAL,
                "drawn": "rng.integers(own.size, size=own.size)",
                "share": "outcomes(decoded.ravel()[drawn], own.ravel()[drawn], donor.ravel()[drawn])[1]",
            }
        ),
        "half as many": _INTERVAL.format(**{**_GOOD_INTERVAL, "drawn": "rng.integers(len(own), size=len(own) // 2)"}),
        "without replacement": _INTERVAL.format(**{**_GOOD_INTERVAL, "drawn": "rng.permutation(len(own))"}),
        "90 per cent": _INTERVAL.format(**{**_GOOD_INTERVAL, "ends": "tuple(np.percentile(found, [15, 85]))"}),
        "kept": _INTERVAL.format(
            **{**_GOOD_INTERVAL, "share": "outcomes(decoded[drawn], own[drawn], donor[drawn])[0]"}
        ),
        "another every time": _INTERVAL.format(
            **{**_GOOD_INTERVAL, "drawn": "np.random.default_rng().integers(len(own), size=len(own))"}
        ),
    },
}

RIGHT: dict[tuple[int, str], dict[str, str]] = {
    (1, "degrees"): {
        "a product": "def degrees(W): return W @ np.ones(len(W))",
        "in place": "def laplacian(W):\n    L = -W.copy(); L[np.diag_indices(len(W))] += degrees(W)\n    return L",
    },
    (1, "cut-values"): {
        "a loop": "def cut(W, side): return sum(W[i, j] for i in range(len(W)) for j in range(len(W)) if side[i] and not side[j])",
        "by indicator": "def ncut(W, side):\n    s = np.asarray(side, float); d = degrees(W)\n    return (s @ W @ (1 - s)) * (1 / (d @ s) + 1 / (d @ (1 - s)))",
    },
    (1, "brute-force"): {
        "by numbers": "def bipartitions(n): return [np.array([True, *(k >> i & 1 == 1 for i in range(n - 1))]) for k in range(2 ** (n - 1) - 1)]",
        "with min": "def best_bipartition(W, value):\n    side = min(bipartitions(len(W)), key=lambda s: value(W, s))\n    return side, value(W, side)",
    },
    (1, "eigenvectors"): {
        "other signs and lengths": "good = generalised_eigenvectors\ndef generalised_eigenvectors(W): a, b = good(W); return a, -7 * b",
        "scipy": "import scipy.linalg\ndef generalised_eigenvectors(W): return scipy.linalg.eigh(laplacian(W), np.diag(degrees(W)))",
    },
    (1, "quotient"): {"with D": _QUOTIENT.format("(x @ laplacian(W) @ x) / (x @ np.diag(degrees(W)) @ x)")},
    (1, "round"): {
        "sorted": "def best_threshold(W, x):\n    t = min(sorted(set(x))[:-1], key=lambda t: ncut(W, x > t))\n    return x > t, ncut(W, x > t)"
    },
    (1, "picture-cut"): {
        "other sign": "good = image_fiedler\ndef image_fiedler(W, shape): a, b = good(W, shape); return a, -b"
    },
    (1, "joint"): {
        "a loop": "def joint_affinity(affinities):\n    t = 0\n    for one in affinities: t = t + len(one) * one / one.sum()\n    return t"
    },
    (2, "attention"): {
        "einsum": _ATTENTION.format(**{**_GOOD_ATTENTION, "logits": "scale * np.einsum('hic,hjc->hij', query, keys)"})
    },
    (2, "qk-graph"): {
        "mean first": "def qk_graph(attention, n_special):\n    m = attention[:, :, n_special:].mean(axis=0)\n    return (m + m.T) / 2"
    },
    (2, "asymmetry"): _of(
        "asymmetry", "matrix", **{"by hand": "(((matrix - matrix.T)**2).sum() / ((matrix + matrix.T)**2).sum()) ** 0.5"}
    ),
    (2, "vv-graph"): {
        "head by head": "def vv_graph(value, threshold=0.1):\n    t = 0\n    for v in value:\n        u = v / np.sqrt((v**2).sum(1))[:, None]; c = u @ u.T; t = t + c * (c > threshold) / len(value)\n    return t"
    },
    (2, "measures"): {
        "np.average": "def mean_distance(W): return np.average(distances, weights=W * (1 - np.eye(len(W))))"
    },
    (2, "heads"): {
        "by hand": "def distance_of_heads(layer):\n    A = attention(as_matrix(layer, 'query'), as_matrix(layer, 'key'), special_keys(layer), scale)\n    return np.array([mean_distance(qk_graph(A[[h]], 5)) for h in range(4)])"
    },
    (3, "plain-share"): {
        "dummies": "def plain_share(field, factor):\n    y = np.ravel(field); X = dummies(factor) if 'dummies' in globals() else (np.ravel(factor)[:, None] == np.unique(factor)).astype(float)\n    left = ((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum(); total = ((y - y.mean()) ** 2).sum()\n    mse = left / (len(y) - X.shape[1])\n    return max(0.0, (total - left - (X.shape[1] - 1) * mse) / (total + mse))"
    },
    (3, "share-beyond"): {"as a lambda": _BEYOND.format(**_GOOD_BEYOND)},
    (3, "shuffle"): {
        "a list": "def shuffled(labels, seed=0): return [labels[place - 1] for place in range(len(labels))]",
        "rolled": "def shuffled(labels, seed=0): return np.roll(labels, 1 + seed % (len(labels) - 1), axis=0)",
    },
    (3, "bootstrap"): {
        "choice": _BOOTSTRAP.format(
            **{
                **_GOOD_BOOTSTRAP,
                "images": "drawn = rng.choice(len(field), len(field)); found.append(plain_share(field[drawn], labels[drawn]))",
            }
        ),
        "a list": _BOOTSTRAP.format(**{**_GOOD_BOOTSTRAP, "result": "found"}),
    },
    (4, "readable"): {
        "a loop": "def readable(eig):\n    g = list(eig.degenerate_group.values)\n    return [int(c) for c, k, v, d in zip(eig.component.values, g, eig.eigenvalue.values, eig.converged.values) if d and v <= 0.9 and g.count(k) == 1]"
    },
    (4, "overlap"): {
        "projections": "def overlap(A, B): return np.trace(A @ np.linalg.pinv(A) @ B @ np.linalg.pinv(B)) / A.shape[1]"
    },
    (5, "removed"): {
        "inverse": _REMOVED.format("M - V @ np.linalg.inv(V.T @ np.diag(b) @ V) @ V.T @ np.diag(b) @ M"),
        "least squares": _REMOVED.format(
            "M - V @ np.linalg.lstsq(V * np.sqrt(b)[:, None], M * np.sqrt(b)[:, None], rcond=None)[0]"
        ),
    },
    (5, "decode"): {"as a template": _DECODE.format(**_GOOD_DECODE)},
    (5, "outcomes"): {
        "a list": "def outcomes(decoded, own, donor):\n    c = (own != donor) & (own >= 0) & (donor >= 0)\n    k, m = (decoded[c] == own[c]).mean(), (decoded[c] == donor[c]).mean()\n    return [k, m, 1 - k - m]"
    },
    (5, "chance"): {"as a template": _CHANCE.format(**_GOOD_CHANCE)},
    (5, "interval"): {
        "choice": _INTERVAL.format(**{**_GOOD_INTERVAL, "drawn": "rng.choice(len(own), len(own))"}),
        "an array": _INTERVAL.format(**{**_GOOD_INTERVAL, "ends": "np.percentile(found, [2.5, 97.5])"}),
    },
}
