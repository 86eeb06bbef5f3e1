"""The layers of the RoI head: from pooled regions to class logits and deltas (Girshick 2015, section 2).

N regions of all images together, S bins along each side.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from frcnn.model.init import initialise
from frcnn.model.norm import norm_layer


class ConvFcHead(nn.Module):
    """Optional 3x3 convolutions, then one or two fully connected layers: (N, C, S, S) -> (N, out_channels).

    Args:
        in_channels: C.
        size: S.
        channels: width of the fully connected layers.
        num_convs: 3x3 convolutions of `in_channels` channels before them.
        num_fcs: 1 or 2.
        norm: "none", or "group" or "batch" norm after each convolution. The statistics of batch norm include empty
            slots, which are regions of the upper left pixel. Slots are empty only if too few proposals are left.
        init: initialization of the fully connected layers, see `initialise`.
    """

    def __init__(
        self, in_channels: int, *, size: int, channels: int, num_convs: int, num_fcs: int, norm: str, init: str
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers.append(nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=norm == "none"))
            if norm != "none":
                layers.append(norm_layer(norm, in_channels))
            layers.append(nn.ReLU(inplace=True))
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.convs = nn.Sequential(*layers)
        self.in_channels = in_channels
        self.fc6 = nn.Linear(in_channels * size * size, channels)
        initialise(self.fc6, init)
        self.fc7 = None
        if num_fcs == 2:
            self.fc7 = nn.Linear(channels, channels)
            initialise(self.fc7, init)
        self.out_channels = channels
        self.reads_channels_last = False

    def read_channels_last(self) -> None:
        """Reorder the weights of fc6 from (C, S, S) to (S, S, C), the order in memory of RoIAlign's results.

        This saves a copy of all pooled regions. It changes the state dict, so it is for detection only. It cannot be
        undone; further calls do nothing.
        """
        if self.reads_channels_last:
            return
        weight = self.fc6.weight.unflatten(1, (self.in_channels, -1)).transpose(1, 2)  # (D, C, S*S) -> (D, S*S, C)
        self.fc6.weight = nn.Parameter(weight.flatten(1).detach(), requires_grad=self.fc6.weight.requires_grad)
        self.reads_channels_last = True

    def forward(self, pooled: Tensor) -> Tensor:
        pooled = self.convs(pooled)
        if self.reads_channels_last:
            pooled = pooled.permute(0, 2, 3, 1)  # (N, C, S, S) -> (N, S, S, C)
        hidden = F.relu(self.fc6(pooled.flatten(1)))  # (N, C*S*S) -> (N, channels)
        return hidden if self.fc7 is None else F.relu(self.fc7(hidden))


class BoxPredictor(nn.Module):
    """Class logits and deltas from the feature vector of each region.

    Args:
        in_channels: length of the vector.
        num_classes: K.
        class_agnostic: predict one box for all classes instead of one per class.
        init: "normal" for standard deviations of 0.01 (classes) and 0.001 (deltas) (Girshick 2015), or "pytorch".
    """

    def __init__(self, in_channels: int, *, num_classes: int, class_agnostic: bool, init: str):
        super().__init__()
        self.classes = nn.Linear(in_channels, num_classes + 1)
        self.deltas = nn.Linear(in_channels, 4 * (1 if class_agnostic else num_classes))
        if init == "normal":
            for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(N, in_channels), or (N, in_channels, h, w) to be averaged -> logits (N, K + 1), deltas (N, K or 1, 4)."""
        if hidden.dim() == 4:
            hidden = hidden.mean(dim=(2, 3))
        return self.classes(hidden), self.deltas(hidden).unflatten(1, (-1, 4))
