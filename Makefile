# make demo: the stage dancer, a small network trained on it, its figures, test and scores (runs/demo)
# make test: the test suite
# Both make the environment .venv first, from Python 3.11 or newer (another one: make PYTHON=python3.12 demo).

PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: demo test clean

demo: .venv/requirements
	test -d data/dancer || $(RUN) Preparer.py --dancer data/dancer
	$(RUN) Trainer.py @recipes/demo.txt --DR data/dancer --save_root runs/demo --overwrite
	$(RUN) Tester.py --ckpt_path runs/demo/best.ckpt --gt data/dancer/test/gt.csv
	$(RUN) Plotting.py runs/demo --page runs/demo/page.html
	@echo "Open runs/demo/page.html in a browser: the videos, the scores and the curves. The figures are in runs/demo."

test: .venv/requirements-test
	$(RUN) -m pytest -q -rs -n auto --maxprocesses 8 --dist loadfile tests

# .venv/requirements, .venv/requirements-video and so on are empty files that say what is installed.
.venv/requirements: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@$(RUN) -c 'import sys; sys.exit(sys.version_info < (3, 11) and ".venv is of an older Python: make clean, then again")'
	$(RUN) -m pip install --quiet --disable-pip-version-check -r $< -c constraints.txt
	@touch $@

.venv/requirements-%: requirements/%.txt constraints.txt .venv/requirements
	$(RUN) -m pip install --quiet --disable-pip-version-check -r $< -c constraints.txt
	@touch $@

.venv/requirements-poses: requirements/poses.txt .venv/requirements  # --no-deps: see requirements/poses.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

clean:
	rm -rf .venv
