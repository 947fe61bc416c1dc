"""Names beside the points of a chart of costs."""

from recbole_think.leaderboard.charts import label_places


def test_a_point_with_room_has_its_name_above():
    assert label_places([0.5], [0.5], ["alone"]) == ["top center"]


def test_a_name_gives_way_to_one_that_has_its_place_already_and_to_points():
    below_another = label_places([0.5, 0.5], [0.5, 0.46], ["first", "second"])
    assert below_another == ["top center", "bottom center"]
    assert label_places([0.5, 0.5], [0.5, 0.54], ["first", "second"]) == ["bottom center", "top center"]


def test_names_at_the_edge_stay_within_the_chart():
    assert label_places([0.0, 1.0], [0.5, 0.5], ["a long name", "another name"]) == ["middle right", "middle left"]


def test_where_all_places_are_taken_there_is_no_name():
    crowd = label_places([0.5] * 9, [0.5] * 9, ["a long name"] * 9)
    assert crowd == ["top center", "bottom center", *[""] * 7]
