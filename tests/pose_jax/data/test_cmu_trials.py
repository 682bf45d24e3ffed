"""The benchmark's recordings: nobody is trained on who is tested on."""

from pose_jax.data import cmu_trials


def test_train_and_test_have_the_same_actions_by_different_subjects():
    train, test = cmu_trials.TRIALS["train"], cmu_trials.TRIALS["test"]
    assert train.keys() == test.keys()
    subjects = [{s for action in split.values() for s in action} for split in (train, test)]
    assert not subjects[0] & subjects[1]


def test_every_recording_has_one_action():
    listed = [
        (subject, trial)
        for split in cmu_trials.TRIALS.values()
        for action in split.values()
        for subject, trials in action.items()
        for trial in trials
    ]
    assert len(set(listed)) == len(listed)
    assert cmu_trials.split_and_action(9, 1) == ("train", "running")
    assert cmu_trials.split_and_action(35, 17) == ("test", "running")
    # Subject 9's twelfth is no run.
    assert cmu_trials.split_and_action(9, 12) is None


def test_files_are_named_as_on_the_site():
    files = list(cmu_trials.files())
    assert files[:3] == ["06/06.asf", "06/06_02.amc", "06/06_03.amc"]
    assert "118/118.asf" in files
    assert "124/124_06.amc" in files
    assert len(set(files)) == len(files)
