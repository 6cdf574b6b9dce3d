"""What a methods section may cite: key to type and fields of a BibTeX entry."""

_VISION = "IEEE/CVF International Conference on Computer Vision"
_PATTERNS = "IEEE/CVF Conference on Computer Vision and Pattern Recognition"
_NEURAL = "Advances in Neural Information Processing Systems"
_LEARNING = "International Conference on Learning Representations"

Entry = tuple[str, dict[str, str]]


def _paper(author: str, title: str, booktitle: str, year: str, eprint: str) -> Entry:
    """An entry of a conference's paper that is on arXiv."""
    where = {"booktitle": booktitle, "year": year, "eprint": eprint, "archiveprefix": "arXiv"}
    return "inproceedings", {"author": author, "title": title} | where


def _preprint(author: str, title: str, year: str, eprint: str) -> Entry:
    """An entry of what is cited as it is on arXiv."""
    return "misc", {"author": author, "title": title, "year": year, "eprint": eprint, "archiveprefix": "arXiv"}


def _other(author: str, title: str, year: str, howpublished: str) -> Entry:
    """An entry of software or of a report."""
    return "misc", {"author": author, "title": title, "year": year, "howpublished": howpublished}


_RESNET = "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian"

BIBLIOGRAPHY: dict[str, Entry] = {
    "yang2022focal": _paper(
        "Yang, Jianwei and Li, Chunyuan and Dai, Xiyang and Gao, Jianfeng",
        "Focal Modulation Networks",
        _NEURAL,
        "2022",
        "2203.11926",
    ),
    "he2014spp": _paper(
        _RESNET,
        "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition",
        "European Conference on Computer Vision",
        "2014",
        "1406.4729",
    ),
    "cao2019gcnet": _paper(
        "Cao, Yue and Xu, Jiarui and Lin, Stephen and Wei, Fangyun and Hu, Han",
        "{GCNet}: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
        f"{_VISION} Workshops",
        "2019",
        "1904.11492",
    ),
    "vaswani2017attention": _paper(
        "Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and others",
        "Attention Is All You Need",
        _NEURAL,
        "2017",
        "1706.03762",
    ),
    "dosovitskiy2021image": _paper(
        "Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and others",
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        _LEARNING,
        "2021",
        "2010.11929",
    ),
    "touvron2021going": _paper(
        "Touvron, Hugo and Cord, Matthieu and Sablayrolles, Alexandre and others",
        "Going Deeper with Image Transformers",
        _VISION,
        "2021",
        "2103.17239",
    ),
    "ioffe2015batch": _paper(
        "Ioffe, Sergey and Szegedy, Christian",
        "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
        "International Conference on Machine Learning",
        "2015",
        "1502.03167",
    ),
    "he2016deep": _paper(_RESNET, "Deep Residual Learning for Image Recognition", _PATTERNS, "2016", "1512.03385"),
    "jordan2024airbench": _preprint(
        "Jordan, Keller", r"94\% on {CIFAR-10} in 3.29 Seconds on a Single {GPU}", "2024", "2404.00498"
    ),
    "tian2019fcos": _paper(
        "Tian, Zhi and Shen, Chunhua and Chen, Hao and He, Tong",
        "{FCOS}: Fully Convolutional One-Stage Object Detection",
        _VISION,
        "2019",
        "1904.01355",
    ),
    "lin2017feature": _paper(
        "Lin, Tsung-Yi and Girshick, Ross and He, Kaiming and others",
        "Feature Pyramid Networks for Object Detection",
        _PATTERNS,
        "2017",
        "1612.03144",
    ),
    "li2020generalized": _paper(
        "Li, Xiang and Wang, Wenhai and Wu, Lijun and others",
        "Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection",
        _NEURAL,
        "2020",
        "2006.04388",
    ),
    "rezatofighi2019generalized": _paper(
        "Rezatofighi, Hamid and Tsoi, Nathan and Gwak, JunYoung and others",
        "Generalized Intersection over Union: A Metric and a Loss for Bounding Box Regression",
        _PATTERNS,
        "2019",
        "1902.09630",
    ),
    "feng2021tood": _paper(
        "Feng, Chengjian and Zhong, Yujie and Gao, Yu and Scott, Matthew R. and Huang, Weilin",
        "{TOOD}: Task-aligned One-stage Object Detection",
        _VISION,
        "2021",
        "2108.07755",
    ),
    "lin2014microsoft": _paper(
        "Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and others",
        "Microsoft {COCO}: Common Objects in Context",
        "European Conference on Computer Vision",
        "2014",
        "1405.0312",
    ),
    "krizhevsky2009learning": _other(
        "Krizhevsky, Alex",
        "Learning Multiple Layers of Features from Tiny Images",
        "2009",
        "Technical report, University of Toronto",
    ),
    "loshchilov2019decoupled": _paper(
        "Loshchilov, Ilya and Hutter, Frank", "Decoupled Weight Decay Regularization", _LEARNING, "2019", "1711.05101"
    ),
    "jordan2024muon": _other(
        "Jordan, Keller and Jin, Yuchen and Boza, Vlado and others",
        "Muon: An Optimizer for Hidden Layers in Neural Networks",
        "2024",
        "https://kellerjordan.github.io/posts/muon/",
    ),
    "loshchilov2017sgdr": _paper(
        "Loshchilov, Ilya and Hutter, Frank",
        "{SGDR}: Stochastic Gradient Descent with Warm Restarts",
        _LEARNING,
        "2017",
        "1608.03983",
    ),
    "smith2017super": _preprint(
        "Smith, Leslie N. and Topin, Nicholay",
        "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
        "2017",
        "1708.07120",
    ),
    "bouthillier2021accounting": _paper(
        "Bouthillier, Xavier and Delaunay, Pierre and Bronzi, Mirko and others",
        "Accounting for Variance in Machine Learning Benchmarks",
        "Proceedings of Machine Learning and Systems",
        "2021",
        "2103.03098",
    ),
    "wang2023anytime": _preprint(
        "Wang, Hongjian and Ramdas, Aaditya",
        "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance",
        "2023",
        "2310.03722",
    ),
    "holm1979simple": (
        "article",
        {
            "author": "Holm, Sture",
            "title": "A Simple Sequentially Rejective Multiple Test Procedure",
            "journal": "Scandinavian Journal of Statistics",
            "volume": "6",
            "number": "2",
            "pages": "65--70",
            "year": "1979",
        },
    ),
    "paszke2019pytorch": _paper(
        "Paszke, Adam and Gross, Sam and Massa, Francisco and others",
        "{PyTorch}: An Imperative Style, High-Performance Deep Learning Library",
        _NEURAL,
        "2019",
        "1912.01703",
    ),
    "wightman2019timm": _other(
        "Wightman, Ross", "{PyTorch} Image Models", "2019", "https://github.com/huggingface/pytorch-image-models"
    ),
    "yadan2019hydra": _other(
        "Yadan, Omry",
        "{Hydra}: A framework for elegantly configuring complex applications",
        "2019",
        "https://github.com/facebookresearch/hydra",
    ),
    "falcon2019lightning": _other(
        "Falcon, William and {The PyTorch Lightning team}",
        "{PyTorch Lightning}",
        "2019",
        "https://github.com/Lightning-AI/pytorch-lightning",
    ),
    "biewald2020wandb": _other(
        "Biewald, Lukas", "Experiment Tracking with {Weights and Biases}", "2020", "https://www.wandb.com"
    ),
}
