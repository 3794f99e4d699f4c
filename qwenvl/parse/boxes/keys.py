"""The names that models give to the parts of an object, case-folded."""

from __future__ import annotations

BOX_KEYS = (
    "bbox_2d",
    "bbox",
    "box_2d",
    "bounding_box",
    "boundingbox",
    "bbox2d",
    "box2d",
    "box",
    "bounding box",
    "bndbox",
    "rect",
    "rectangle",
    "xyxy",
    "coordinates",
    "coords",
    "coordinate",
    "position",
    "location",
    "bboxes",
    "boxes",
    "bounding_boxes",
    "bboxes_2d",
    "bbox_2ds",
    "边界框",
    "包围框",
    "检测框",
    "坐标",
    "位置",
    "框",
)
POINT_KEYS = (
    "point_2d",
    "point",
    "keypoint",
    "point2d",
    "points_2d",
    "points",
    "keypoints",
    "center",
    "centre",
    "centroid",
    "点",
    "点坐标",
    "中心点",
    "关键点",
)
EITHER_KEYS = frozenset({"coordinates", "coords", "coordinate", "position", "location", "坐标", "位置"})
"""Keys under which two numbers are a point and four are a box."""
LABEL_KEYS = (
    "label",
    "name",
    "class",
    "category",
    "type",
    "class_name",
    "object",
    "classification",
    "text_content",
    "object_name",
    "category_name",
    "cell_type",
    "label_name",
    "cls",
    "标签",
    "类别",
    "名称",
    "类型",
    "种类",
)
SCORE_KEYS = ("confidence", "score", "conf", "probability", "prob", "置信度", "得分", "概率")
NOT_NAMES = frozenset(
    {
        "image",
        "img",
        "image_id",
        "img_id",
        "img_idx",
        "image_idx",
        "image_index",
        "frame",
        "file",
        "filename",
        "file_name",
        "path",
        "url",
        "id",
        "uuid",
        "unit",
        "units",
        "format",
        "bbox_type",
        "color",
        "colour",
        "图",
        "图片",
        "图像",
    }
)
"""Keys whose words are no name of the object."""
POLYGON_KEYS = (
    "quad",
    "quad_2d",
    "quadrilateral",
    "polygon",
    "polygon_2d",
    "poly",
    "corners",
    "vertices",
    "segmentation",
    "contour",
    "outline",
    "多边形",
    "轮廓",
    "四边形",
)
"""Keys under which corners stand, one pair of numbers each."""
CONFIDENCE_KEYS = frozenset(SCORE_KEYS) - {"score", "得分"}
"""Keys whose numbers above 1 can only be percent; a 'score' of 5 may be out of ten."""
WRAPPER_KEYS = frozenset(
    (
        "objects",
        "detections",
        "results",
        "result",
        "annotations",
        "instances",
        "items",
        "data",
        "answer",
        "output",
        "predictions",
        "boxes",
        "bboxes",
        "points",
        "bounding_boxes",
        "对象",
        "目标",
        "结果",
        "检测结果",
    )
)
"""Keys under which a list of objects may stand, so that an empty list there is an empty answer."""

COORDINATE_KEYS = frozenset(BOX_KEYS + POINT_KEYS + POLYGON_KEYS)

_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
    ("x0", "y0", "x1", "y1"),
)
_ANCHORS = frozenset({"x", "x1", "x_min", "xmin", "left", "x0", "cx", "x_center", "center_x"})
_EXTENTS = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))


_CENTRES = (
    ("cx", "cy", "w", "h"),
    ("cx", "cy", "width", "height"),
    ("x_center", "y_center", "width", "height"),
    ("center_x", "center_y", "width", "height"),
)


def numbers_by_name(item: dict[str, object]) -> list[object] | None:
    """Corners x_min, y_min, x_max, y_max or a point x, y that a dict spells out key by key; None without.

    `item` has case-folded keys. Named widths and heights are added to the corner as written.
    """
    if _ANCHORS.isdisjoint(item):
        return None
    for names in _CORNERS:
        if all(name in item for name in names):
            return [item[name] for name in names]
    for names in _EXTENTS:
        if all(name in item for name in names):
            x, y, width, height = (item[name] for name in names)
            if all(isinstance(part, (int, float)) for part in (x, y, width, height)):
                return [x, y, x + width, y + height]  # type: ignore[operator]
            return [x, y, None, None]
    for names in _CENTRES:
        if all(name in item for name in names):
            x, y, width, height = (item[name] for name in names)
            if all(isinstance(part, (int, float)) for part in (x, y, width, height)):
                return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]  # type: ignore[operator]
            return [x, y, None, None]
    return [item["x"], item["y"]] if "x" in item and "y" in item else None
