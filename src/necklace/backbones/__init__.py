"""Backbones: images [B, 3, H, W] to one feature map [B, out_channels, h, w], in most of ceil(H / stride) x ceil(W / stride)."""

from necklace.backbones.base import Backbone
from necklace.backbones.cifar_resnet import CifarResNet
from necklace.backbones.fast_cnn import FastCnn
from necklace.backbones.libraries import TimmBackbone, TorchvisionResNet
from necklace.backbones.lite0 import Lite0

__all__ = ["Backbone", "CifarResNet", "FastCnn", "Lite0", "TimmBackbone", "TorchvisionResNet"]
