"""The channel graph terms once more, in float64 numpy with loops, straight from the equations.

Independent of mmgkd: it shares no code with what it judges. Where a loss is not defined by its equations (an
embedding that cuts through equal eigenvalues) it raises, rather than pick one of the answers.
"""
import math

import numpy as np
import scipy.linalg
from scipy.sparse import csgraph

TAU = 0.5
UNIFORM = 0.5
MIN_DEGREE = 0.01  # smaller ones are clamped to it


def example(shape=(2, 5, 4, 6), seed=54):
    """A student's and a teacher's map (N, C, H, W): related, off-centre, with a connected channel graph."""
    rng = np.random.default_rng(seed)
    n, c, h, w = shape
    shared = rng.normal(size=(n, 1, h, w))
    noise, teacher_noise = rng.normal(size=(2, *shape))
    loading, scale = rng.uniform(0.1, 1.3, (n, c, 1, 1)), rng.uniform(0.5, 2, (n, c, 1, 1))
    teacher = scale * (loading * shared + teacher_noise) + rng.uniform(-0.5, 1.5, (n, c, 1, 1))
    return 0.7 * teacher + 0.5 * noise + 0.2 * shared, teacher


def example_valid(shape=(2, 5, 4, 6)):
    """A mask (N, H, W) that pads each image differently: some columns on the right, some rows below."""
    n, _, h, w = shape
    valid = np.zeros((n, h, w), dtype=bool)
    for i in range(n):
        valid[i, :h - i % 2, :w - 1 - i % 2] = True
    return valid


def softmax(x):
    e = [math.exp(v - max(x)) for v in x]
    return [v / sum(e) for v in e]


def cells_of(image, valid):
    """The valid cells of one image (C, H, W), as rows (P, C)."""
    _, h, w = image.shape
    return np.array([image[:, y, x] for y in range(h) for x in range(w) if valid is None or valid[y, x]])


def relative(energies):
    mean = sum(energies) / len(energies)
    return [e / mean for e in energies]


def spatial_weight(teacher):
    focus = softmax([e / TAU for e in relative([sum(abs(v) for v in cell) for cell in teacher])])
    return [UNIFORM / len(teacher) + (1 - UNIFORM) * f for f in focus]


def channel_weight(teacher):
    p, c = teacher.shape
    energies = relative([sum(abs(teacher[k, i]) for k in range(p)) for i in range(c)])
    return [c * v for v in softmax([e / TAU for e in energies])]


def covariance(x, y, omega, centered):
    """sum_p omega_p (x_p - mu_x)(y_p - mu_y) of two channels."""
    mean_x = sum(o * v for o, v in zip(omega, x, strict=True)) if centered else 0
    mean_y = sum(o * v for o, v in zip(omega, y, strict=True)) if centered else 0
    return sum(o * (a - mean_x) * (b - mean_y) for o, a, b in zip(omega, x, y, strict=True))


def graph_of(cells, omega, centered):
    """The correlations (C, C) of the channels of one map."""
    c = cells.shape[1]
    gram, graph = np.zeros((2, c, c))
    for i in range(c):
        for j in range(c):
            gram[i, j] = covariance(cells[:, i], cells[:, j], omega, centered)
    for i in range(c):
        for j in range(c):
            graph[i, j] = gram[i, j] / math.sqrt(gram[i, i] * gram[j, j])
    return graph


def vertex(student, teacher, omega, weight, centered):
    total, c = 0, student.shape[1]
    for i in range(c):
        s, t = student[:, i], teacher[:, i]
        own = covariance(s, s, omega, centered) * covariance(t, t, omega, centered)
        total += weight[i] * (1 - covariance(s, t, omega, centered) / math.sqrt(own))
    return total / c


def edge(graph_s, graph_t, weight, relational):
    above = below = 0
    for i in range(len(weight)):
        for j in range(len(weight)):
            if i != j:
                m = weight[i] * weight[j] * (abs(graph_t[i, j]) if relational else 1)
                above += m * (graph_s[i, j] - graph_t[i, j]) ** 2
                below += m
    return above / below


def laplacian(graph, affinity):
    c = len(graph)
    weights = np.zeros((c, c))
    for i in range(c):
        for j in range(c):
            if i != j:
                a = graph[i, j]
                weights[i, j] = {'relu': max(a, 0), 'abs': abs(a), 'shift': (1 + a) / 2}[affinity]
    degrees = weights.sum(1)
    if ((0 < degrees) & (degrees < MIN_DEGREE)).any():
        raise ValueError(f'not a plain Laplacian below a degree of {MIN_DEGREE}: {degrees}')
    lap = csgraph.laplacian(weights, normed=True)
    np.fill_diagonal(lap, 1)  # I - D^-1/2 P D^-1/2 is that of an isolated vertex too; scipy's is 0
    return lap


def embedding(lap, r):
    """Eigenvalues (r,) and eigenvectors (C, r), the trivial ones left out."""
    values, vectors = scipy.linalg.eigh(lap)
    cuts = [values[1] - values[0]] + ([values[r + 1] - values[r]] if r + 1 < len(values) else [])
    if min(cuts) < 1e-6:
        raise ValueError(f'the embedding of {r} is not defined: eigenvalues {values}')
    return values[1:r + 1], vectors[:, 1:r + 1]


def rayleigh(lap_s, lap_t, r):
    values, vectors = embedding(lap_t, r)
    total = 0
    for a in range(r):
        for b in range(r):
            total += (vectors[:, a] @ lap_s @ vectors[:, b] - (values[a] if a == b else 0)) ** 2
    return total / r


def subspace(lap_s, lap_t, r):
    """One minus the mean squared cosine of the principal angles."""
    angles = scipy.linalg.subspace_angles(embedding(lap_s, r)[1], embedding(lap_t, r)[1])
    return 1 - sum(math.cos(a) ** 2 for a in angles) / r


def terms(student, teacher, valid=None, *, attention=None, centered=True,
          spectral='rayleigh', affinity='relu', num_eigenvectors=2):
    """Term to value, each a mean over the images."""
    attention = attention or ()
    losses = {'vertex': [], 'edge': [], 'spectral': []}
    for i in range(len(student)):
        mask = None if valid is None else valid[i]
        s, t = (cells_of(np.asarray(x[i], np.float64), mask) for x in (student, teacher))
        omega = spatial_weight(t) if 'spatial' in attention else [1 / len(t)] * len(t)
        weight = channel_weight(t) if 'channel' in attention else [1] * t.shape[1]
        graph_s, graph_t = graph_of(s, omega, centered), graph_of(t, omega, centered)
        lap_s, lap_t = laplacian(graph_s, affinity), laplacian(graph_t, affinity)
        losses['vertex'].append(vertex(s, t, omega, weight, centered))
        losses['edge'].append(edge(graph_s, graph_t, weight, 'relational' in attention))
        losses['spectral'].append({'rayleigh': rayleigh, 'subspace': subspace}[spectral](
            lap_s, lap_t, num_eigenvectors))
    return {term: sum(values) / len(values) for term, values in losses.items()}
