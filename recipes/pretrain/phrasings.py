"""The words of the questions: names of cells, tissues and findings, and how people ask."""

from __future__ import annotations

NUCLEUS_NAMES = ("nucleus", "nucleus", "cell nucleus", "cell")
"""Labels for every nucleus whatever its class; the first is the recommended one."""

CELL_NAMES: dict[str, tuple[str, ...]] = {
    "tumor": ("tumor", "tumor cell", "tumour cell", "cancer cell"),
    "lymphocyte": ("lymphocyte", "lymphocyte", "immune cell"),
    "stromal": ("stromal", "stromal cell", "fibroblast"),
    "epithelial": ("epithelial", "epithelial cell", "gland cell"),
    "mitosis": ("mitosis", "mitotic figure"),
}
"""Labels per nucleus class: the factory's name, the usual name, others."""

PLURALS = {
    "tumor": "tumor cells",
    "lymphocyte": "lymphocytes",
    "stromal": "stromal cells",
    "epithelial": "epithelial cells",
    "mitosis": "mitotic figures",
}

ABSENT_LABELS = ("plasma cell", "neutrophil", "red blood cell", "platelet", "neuron", "vessel")
"""Labels of things the factory never draws: asked for, they must give nothing."""

TISSUE_NAMES: dict[str, tuple[str, str]] = {
    "tumor": ("tumor", "tumor tissue"),
    "stroma": ("stroma", "connective tissue"),
    "lymphoid aggregate": ("lymphoid aggregate", "lymphoid tissue"),
    "necrosis": ("necrosis", "necrotic tissue"),
    "fat": ("fat", "adipose tissue"),
    "background": ("background", "empty glass"),
}

REGION_NAMES: dict[str, tuple[str, ...]] = {
    "tumor": ("tumor region",),
    "stroma": ("stroma",),
    "lymphoid aggregate": ("lymphoid aggregate",),
    "necrosis": ("necrosis",),
    "fat": ("fat",),
    "gland": ("gland",),
}

FINDING_NAMES: dict[str, tuple[str, ...]] = {
    "tumor": ("tumor", "tumor tissue", "a tumor", "cancer"),
    "stroma": ("stroma", "connective tissue"),
    "lymphoid aggregate": ("a lymphoid aggregate", "lymphoid tissue"),
    "necrosis": ("necrosis", "necrotic tissue"),
    "fat": ("fat", "adipose tissue"),
    "background": ("background", "empty glass"),
    "gland": ("a gland", "glands"),
    "mitosis": ("a mitosis", "a mitotic figure", "mitotic figures"),
    "fold": ("a fold", "a tissue fold"),
    "pen mark": ("a pen mark", "ink"),
    "blur": ("blur",),
    "tumor cells": ("tumor cells", "a tumor cell"),
    "lymphocyte cells": ("lymphocytes", "a lymphocyte"),
    "stromal cells": ("stromal cells", "fibroblasts"),
    "epithelial cells": ("epithelial cells", "an epithelial cell"),
}

PRESENCE = (
    "Is there {} in this image?",
    "Does this image contain {}?",
    "Does this tile show {}?",
    "Is {} present in this tile?",
    "Do you see {} here?",
)

OWN_WORDS: dict[str, tuple[str, ...]] = {
    "detect": (
        "Detect all objects in this image: {}. Answer as JSON with bbox_2d and label.",
        "Find every {} and report bbox_2d and label in JSON format.",
        "Outline every {} with a box.",
        "Where are the objects of type {}? Give boxes as JSON.",
        "Locate {}, report bbox coordinates in JSON format.",
    ),
    "point": (
        "Point to every {} and report point_2d and label in JSON format.",
        "Mark the centre of every {} as JSON points.",
        "Locate {} with points, report point coordinates in JSON format.",
    ),
    "count": (
        "How many {} are there? Answer with one number.",
        "Count the {}. Answer with one number.",
        "What is the number of {} in this image?",
    ),
    "classify": ("What kind of tissue is this?", "Which tissue fills most of this tile?", "Classify this tile."),
    "describe": (
        "Describe this tile in one sentence.",
        "What does this image show?",
        "Give a short description of this picture.",
    ),
    "ask tissue": ("What tissue is this?", "Which tissue does this image show?", "Name the main tissue in one word."),
    "ask count": ("How many nuclei are there in this image?", "How many nuclei do you see?"),
}

COMMON_WORDS = (
    "You are a helpful assistant. Please answer the question about this histology image of a stained tissue section "
    "from a whole slide scanner. Look at the picture and list all objects, cells, nuclei, regions and findings with "
    "bounding boxes, points, labels, scores and counts in JSON format. If there is nothing, return an empty list. "
    "Is it normal, benign or malignant? Explain in one short sentence or one word. What do you see at this position? "
    "Which of these is the best, the largest, the smallest, the first or the last? Do not guess, and do not repeat. "
    "The red, blue, green, dark, bright, small, large, round and long ones on the left, right, top and bottom. "
    "How much of the area is covered, and where? Hematoxylin and eosin, breast, colon, lung, skin, liver, kidney."
)
