"""The protocol implemented the obvious way, as the baseline for timing the audit's own code.

Per-image PIL transforms, the whole ResNet-18, a potential differentiated by autograd twice per
leapfrog step, one eigendecomposition per floor, features extracted again for every readout.
"""

import itertools

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from hamjepa_audit.params.arms import HamiltonianParams, PhaseSpaceObjectiveParams, SpectralLimits
from hamjepa_audit.params.studies import EncoderParams, RunParams, ViewParams

Pictures = list[Image.Image]


def pictures(images: Tensor) -> Pictures:
    """(N, 3, H, W) uint8 as PIL images."""
    return [Image.fromarray(np.ascontiguousarray(x.permute(1, 2, 0).numpy())) for x in images]


def training_transform(params: ViewParams) -> v2.Transform:
    """Torchvision's transforms, one image at a time."""
    jitter = params.jitter
    colours = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    blur = v2.GaussianBlur(params.blur.kernel_size, list(params.blur.sigma))
    return v2.Compose(
        [
            v2.RandomResizedCrop(params.size, params.crop_scale, params.crop_ratio),
            v2.RandomHorizontalFlip(params.flip_probability),
            v2.RandomApply([colours], jitter.probability),
            v2.RandomGrayscale(params.grayscale_probability),
            v2.RandomApply([blur], params.blur.probability),
            v2.RandomSolarize(params.solarize.threshold, params.solarize.probability),
            evaluation_transform(params),
        ]
    )


def evaluation_transform(params: ViewParams) -> v2.Transform:
    """Conversion to a normalised float32 tensor."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(params.mean), list(params.std)),
        ]
    )


class PlainEncoder(nn.Module):
    """torchvision's ResNet-18 with all four stages, tokens from the third."""

    def __init__(self, params: EncoderParams) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet18(weights=None)
        self.backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.backbone.maxpool = nn.Identity()
        channels = params.token_channels
        self.tokens = nn.Sequential(
            nn.Conv2d(256, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.stage3: Tensor
        self.backbone.layer3.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.stage3 = output

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) -> states [q; p], (N, 2d)."""
        self.backbone(images)
        q, p = self.tokens(self.stage3).permute(0, 2, 3, 1).chunk(2, dim=-1)
        return torch.cat([q.flatten(1), p.flatten(1)], dim=1)


class PlainPotential(nn.Module):
    """The potential, and its gradient by autograd."""

    def __init__(self, params: HamiltonianParams, dimension: int) -> None:
        super().__init__()
        self.params = params
        width = params.potential.hidden_width
        sizes = [dimension, *[width] * params.potential.hidden_layers]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.GELU()]
        self.residual = nn.Sequential(*layers, nn.Linear(width, 1))

    def gradient(self, q: Tensor) -> Tensor:
        """(N, d) -> (N, d), with the graph kept for the second derivative."""
        with torch.enable_grad():
            q = q if q.requires_grad else q.requires_grad_()
            params = self.params.potential
            energy = 0.5 * params.stiffness * q.square().sum(-1)
            energy = energy + params.residual_scale * self.residual(q).squeeze(-1)
            (gradient,) = torch.autograd.grad(energy.sum(), q, create_graph=True)
        return gradient

    def flow(self, states: Tensor, direction: int) -> Tensor:
        """Leapfrog with two gradients per step."""
        q, p = states.chunk(2, dim=-1)
        step = direction * self.params.step_size
        for _ in range(self.params.steps):
            p = p - 0.5 * step * self.gradient(q)
            q = q + step * p
            p = p - 0.5 * step * self.gradient(q)
        return torch.cat([q, p], dim=-1)


def plain_prediction(
    states: Tensor, potential: PlainPotential, params: PhaseSpaceObjectiveParams
) -> Tensor:
    """Prediction loss, computed for one direction after the other; states (2, B, 2d)."""

    def distance(predicted: Tensor, target: Tensor) -> Tensor:
        q, p = predicted.chunk(2, dim=-1)
        target_q, target_p = target.detach().chunk(2, dim=-1)
        weight = params.prediction.momentum_weight
        return (q - target_q).square().mean() + weight * (p - target_p).square().mean()

    forward = distance(potential.flow(states[0], +1), states[1])
    backward = distance(potential.flow(states[1], -1), states[0])
    return 0.5 * (forward + backward)


def plain_floor(rows: Tensor, directions: Tensor, ridge: float, limits: SpectralLimits) -> Tensor:
    """Log-det, participation and top eigenvalue terms of one half of the state, each separately."""
    projected = (rows - rows.mean(dim=0)) @ directions
    k = directions.shape[1]
    covariance = projected.T @ projected / (len(rows) - 1) + ridge * torch.eye(k)
    logdet = torch.linalg.slogdet(covariance).logabsdet / k
    participation = covariance.trace().square() / covariance.square().sum() / k
    eigenvalues = torch.linalg.eigvalsh(covariance)
    return (
        torch.relu(limits.minimum_logdet - logdet).square()
        + torch.relu(limits.minimum_participation - participation).square()
        + torch.relu(eigenvalues[-1] / eigenvalues.sum() - limits.maximum_top_share).square()
    )


def plain_regularisers(rows: Tensor, params: PhaseSpaceObjectiveParams) -> Tensor:
    """Budget, variance floors and mean penalty, weighted, each computed from the rows."""
    q, p = rows.chunk(2, dim=-1)
    floor = params.variance_floor
    budget = (q.square().mean() - params.budget.q_target).square()
    budget = budget + (p.square().mean() - params.budget.p_target).square()
    variance = torch.zeros(())
    for part in (q, p):
        deviation = torch.sqrt(part.var(dim=0, correction=0) + floor.epsilon)
        variance = variance + torch.relu(floor.minimum_std - deviation).square().mean()
    mean = rows.mean(dim=0).square().mean()
    return (
        params.budget.weight * budget + floor.weight * variance + params.mean_penalty.weight * mean
    )


def plain_objective(
    states: Tensor,
    potential: PlainPotential,
    directions: Tensor,
    params: PhaseSpaceObjectiveParams,
) -> Tensor:
    """HamJEPA's weighted sum; states (2, B, 2d), directions (2, d, k)."""
    rows = states.flatten(0, 1)
    q, p = rows.chunk(2, dim=-1)
    spectral = params.logdet_floor
    logdet = plain_floor(q, directions[0], spectral.ridge, spectral.q)
    logdet = logdet + plain_floor(p, directions[1], spectral.ridge, spectral.p)
    return (
        plain_prediction(states, potential, params)
        + spectral.weight * logdet
        + plain_regularisers(rows, params)
    )


class PlainTrainer:
    """Views and training steps, always on the same images."""

    def __init__(
        self,
        run: RunParams,
        objective: PhaseSpaceObjectiveParams,
        leapfrog: HamiltonianParams,
        images: Tensor,
    ) -> None:
        dimension = run.encoder.state_dimension(run.views.size) // 2
        self.encoder = PlainEncoder(run.encoder)
        self.potential = PlainPotential(leapfrog, dimension)
        self.objective = objective
        self.transform = training_transform(run.views)
        self.pictures = pictures(images)
        self.parameters = [*self.encoder.parameters(), *self.potential.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=5e-4, weight_decay=5e-4)

    def views(self) -> Tensor:
        """Two views of every image, one after the other: (2 B, 3, S, S)."""
        return torch.stack([self.transform(x) for _ in range(2) for x in self.pictures])

    def step(self, directions: Tensor) -> None:
        """Runs one training step with given directions (2, d, k) of the floors."""
        states = self.encoder(self.views()).unflatten(0, (2, len(self.pictures)))
        loss = plain_objective(states, self.potential, directions, self.objective)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()


def plain_probe(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, epochs: int, batch_size: int
) -> Tensor:
    """Trains LayerNorm and a linear layer with torch.optim; returns test predictions."""
    probe = nn.Sequential(nn.LayerNorm(train.shape[1]), nn.Linear(train.shape[1], classes))
    optimiser = torch.optim.AdamW(probe.parameters(), lr=1e-3, weight_decay=1e-6)
    steps = epochs * -(-len(train) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).split(batch_size):
            loss = nn.functional.cross_entropy(probe(train[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    with torch.inference_mode():
        return torch.as_tensor(probe(test).argmax(dim=1))


def plain_knn(
    train: Tensor, labels: Tensor, test: Tensor, neighbours: tuple[int, ...], classes: int
) -> dict[int, Tensor]:
    """Predictions for each k, with a separate search for each k."""
    train, test = (nn.functional.normalize(x, dim=1) for x in (train, test))
    predictions = {}
    for k in neighbours:
        nearest = labels[(test @ train.T).topk(min(k, len(train)), dim=1).indices]
        predictions[k] = nn.functional.one_hot(nearest, classes).sum(dim=1).argmax(dim=1)
    return predictions
