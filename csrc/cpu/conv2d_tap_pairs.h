// The taps' terms (conv2d_tap_terms.h) by pairs, F(2, 2) of Winograd: along an axis two taps of one phase, t before u,
// find the same map one output apart, so that what they find at outputs 2j and 2j + 1 is three values a, b, c. With the
// outputs' g and h there,
//   g (a w_t + b w_u) + h (b w_t + c w_u) = g (a - b) w_t + (g + h) b (w_t + w_u) + h (c - b) w_u:
// three terms for four, and over both axes of a 3 x 3 layer of stride 2 twenty-five for thirty-six. What the lines of
// the frame add is not the same for both taps and has terms of its own, a profile's sums of the outputs' side times
// what taps find on a row or a column of x.
#pragma once

#include "conv2d_tap_paired_axis.h"
#include "conv2d_tap_terms.h"

namespace alias_ops::ALIAS_OPS_ISA {

template <class C>
class PairedTerms : public TapParts<C> {
  using Parts = TapParts<C>;
  using Axis = PairedAxis<C>;
  using Term = typename Axis::Term;
  using Parts::add;
  using Parts::h_;
  using Parts::kL;
  using Parts::w_;
  using Parts::width_;

  // Output pixels together: half of those of taps, as the outputs' side has 9/4 of their rows.
  static constexpr int64_t kPixels = kTapPixels / 2;

 public:
  using Parts::height;
  using Parts::width;
  using typename Parts::Lanes;
  using typename Parts::Low;

  PairedTerms(const TapTable& h, const TapTable& w, int64_t images)
      : Parts(h, w),
        images(this->images_together(images, kPixels)),
        rows(std::min(ceiling(this->rows_together(kPixels), 2) * 2, h.outputs)),
        down_(h, h_, rows),
        along_(w, w_, w.outputs),
        groups_(this->images, rows) {
    for (int part = 0; part < kParts * kParts; ++part) {
      const auto &terms_h = down_.parts[part / kParts], &terms_w = along_.parts[part % kParts];
      const int64_t count_h = int64_t(terms_h.size()), count_w = int64_t(terms_w.size());
      TermGroup& group = groups_.add(kPartRows[part / kParts],
                                     TermGroup::rows_of(kPartRows[part % kParts], width(), true), count_h * count_w);
      if (count_h * count_w == 0) continue;
      if (count_w == 1) {
        groups_.add_blocks(group, 0, count_h, weight(terms_h[0].weight, terms_w[0].weight), weight(1, 0));
        continue;
      }
      for (int64_t a = 0; a < count_h; ++a) {
        groups_.add_blocks(group, a * count_w, count_w, weight(terms_h[a].weight, terms_w[0].weight), 1);
      }
    }
    const int64_t taps_h = int64_t(h_.taps.size()), taps_w = int64_t(w_.taps.size());
    for (const auto& line : down_.lines) {
      TermGroup& group = groups_.add(TermRows::kSum, width(), int64_t(line.taps.size()) * taps_w);
      for (size_t i = 0; i < line.taps.size(); ++i) {
        groups_.add_blocks(group, int64_t(i) * taps_w, taps_w, weight(down_.weight_of_tap[line.taps[i].tap], 0), 1);
      }
    }
    for (const auto& line : along_.lines) {
      TermGroup& group = groups_.add(TermRows::kAll, 1, int64_t(line.taps.size()) * taps_h);
      for (size_t i = 0; i < line.taps.size(); ++i) {
        groups_.add_blocks(group, int64_t(i) * taps_h, taps_h, weight(0, along_.weight_of_tap[line.taps[i].tap]),
                           weight(1, 0));
      }
    }
  }

  // Whether terms are enough fewer than taps: those of pairs, and of every tap on every line.
  static bool pays(const TapTable& h, const TapTable& w) {
    const auto on_lines = [](const TapTable& t) {
      return std::count_if(t.sources, t.sources + t.lines * t.taps, [](int64_t source) { return source >= 0; });
    };
    const int64_t lines = on_lines(h) * w.taps * w.outputs + on_lines(w) * h.taps * h.outputs;
    const int64_t products = TapPairs(h).pixels(h.outputs) * TapPairs(w).pixels(w.outputs) + lines;
    return 10 * products < 9 * h.taps * w.taps * h.outputs * w.outputs;
  }

  const TermGroups<C>& groups() const { return groups_; }
  static bool takes_whole(const TapTable& h, const TapTable& w) { return h.outputs * w.outputs <= kPixels; }
  static int64_t weights(const TapTable& h, const TapTable& w) { return TapPairs(h).weights() * TapPairs(w).weights(); }
  int64_t weights() const { return weight(int64_t(down_.weights.size()), 0); }
  int64_t work_size() const { return down_.size * along_.size * kL; }

  // As those of TapTerms.
  void spread_weight(const C* taps, C* to, int64_t step) const {
    each_weight([&](int64_t i, const int64_t (&tap)[4], int count) {
      Vec<C> sum = load(taps + tap[0] * kL);
      for (int k = 1; k < count; ++k) sum += load(taps + tap[k] * kL);
      store(to + i * step, sum);
    });
  }
  void collect_weight(const C* from, int64_t step, C* taps) const {
    std::fill_n(taps, this->taps() * kL, C(0));
    each_weight([&](int64_t i, const int64_t (&tap)[4], int count) {
      for (int k = 0; k < count; ++k) add(taps + tap[k] * kL, load(from + i * step));
    });
  }

  void spread_gradient(const C* map, Vec<C> scale, int64_t i, int64_t first, int64_t last, C* to) const {
    const int64_t count = last - first;
    const bool complete = last == height();
    const TermGroup* group = groups_.all().data();
    C* part[kParts * kParts];
    for (C*& place : part) {
      place = to + group->gradient + i * group->pixels(count, complete) * kL;
      ++group;
    }
    const auto put = [&](int number, Vec<C> value) {
      store(part[number], value);
      part[number] += kL;
    };
    for (int64_t n = 0; n < count; n += 2) {
      for (int64_t m = 0; m < width(); m += 2) {
        const bool down = n + 1 < count, along = m + 1 < width();
        const C* at = map + n * width_ + m * kL;
        const Vec<C> even = scale * load(at), even_odd = along ? scale * load(at + kL) : Vec<C>{};
        const Vec<C> odd_even = down ? scale * load(at + width_) : Vec<C>{};
        const Vec<C> odd = down && along ? scale * load(at + width_ + kL) : Vec<C>{};
        const Vec<C> both_even = even + odd_even, both_odd = even_odd + odd;
        put(0, even), put(2, even + even_odd), put(6, both_even), put(8, both_even + both_odd);
        if (along) put(1, even_odd), put(7, both_odd);
        if (down) put(3, odd_even), put(5, odd_even + odd);
        if (down && along) put(4, odd);
      }
    }
    for (const auto& line : down_.lines) {
      C* out = to + group++->gradient + i * width_;
      for (int64_t m = 0; m < width(); ++m) {
        Vec<C> sum = {};
        for (int64_t n = 0; n < count; ++n) sum -= line.profile[first + n] * load(map + n * width_ + m * kL);
        store(out + m * kL, first == 0 ? scale * sum : load(out + m * kL) + scale * sum);
      }
    }
    for (const auto& line : along_.lines) {
      C* out = to + group++->gradient + i * count * kL;
      for (int64_t n = 0; n < count; ++n) {
        Vec<C> sum = {};
        for (int64_t m = 0; m < width(); ++m) sum -= line.profile[m] * load(map + n * width_ + m * kL);
        store(out + n * kL, scale * sum);
      }
    }
  }

  // `work`: x less its low-passed self, [place down][place along][lanes].
  void make(const Lanes& lanes, const Low& low, int64_t i, int64_t first, int64_t last, C* x, C* work) const {
    const auto [from, x_row, x_column] = lanes;
    each_run(first, last, [&](const auto& run, int64_t at, int64_t places, int64_t row, int64_t offset) {
      C* to = work + at;
      w_.around(
          w_.taps[run.tap],
          [&](int64_t m, int64_t place) { store(to + m * kL, -load(low.low.data() + places + place * kL)); }, run.more);
      if (row < 0) return;
      const C* line = from + row * x_row + offset * x_column;
      for (int64_t m = run.first; m < run.last; ++m) add(to + m * kL, load(line + m * w_.stride * x_column));
    });
    each_term(i, first, last, [&](auto minus, int64_t term, const Place& place, int64_t count) {
      C* to = x + term;
      const C *at = work + place.at, *down = work + place.down;
      for (int64_t k = 0; k < count; ++k, to += kL, at += 2 * kL, down += 2 * kL) {
        Vec<C> value = load(at);
        if constexpr (minus.along) value -= load(at + place.along);
        if constexpr (minus.down) value -= load(down);
        if constexpr (minus.down && minus.along) value += load(down + place.along);
        store(to, value);
      }
    });
    each_line_term(i, first, last, [&](int64_t term, bool down, int64_t at) {
      store(x + term, load((down ? low.rows : low.columns).data() + at));
    });
  }
  void collect(const C* x, int64_t i, int64_t first, int64_t last, C* dx, Low& low, C* work) const {
    std::fill_n(work, work_size(), C(0));
    each_term(i, first, last, [&](auto minus, int64_t term, const Place& place, int64_t count) {
      const C* from = x + term;
      C *at = work + place.at, *down = work + place.down;
      for (int64_t k = 0; k < count; ++k, from += kL, at += 2 * kL, down += 2 * kL) {
        const Vec<C> value = load(from);
        Parts::add(at, value);
        if constexpr (minus.along) Parts::add(at + place.along, -value);
        if constexpr (minus.down) Parts::add(down, -value);
        if constexpr (minus.down && minus.along) Parts::add(down + place.along, value);
      }
    });
    each_run(first, last, [&](const auto& run, int64_t at, int64_t places, int64_t row, int64_t offset) {
      const C* from = work + at;
      w_.around(
          w_.taps[run.tap],
          [&](int64_t m, int64_t place) { add(low.low.data() + places + place * kL, -load(from + m * kL)); }, run.more);
      if (row < 0) return;
      C* line = dx + (row * w_.size + offset) * kL;
      for (int64_t m = run.first; m < run.last; ++m) add(line + m * w_.stride * kL, load(from + m * kL));
    });
    each_line_term(i, first, last, [&](int64_t term, bool down, int64_t at) {
      add((down ? low.rows : low.columns).data() + at, load(x + term));
    });
  }

  const int64_t images, rows;

 private:
  static constexpr TermRows kPartRows[kParts] = {TermRows::kEven, TermRows::kOdd, TermRows::kBoth};

  int64_t weight(int64_t down, int64_t along) const { return down * int64_t(along_.weights.size()) + along; }

  // visit(weight, taps, how many)
  template <class Visit>
  void each_weight(Visit visit) const {
    const int64_t row = int64_t(w_.taps.size());
    int64_t number = 0;
    for (const auto& down : down_.weights) {
      for (const auto& along : along_.weights) {
        int64_t taps[4];
        int count = 0;
        for (int64_t t : {down.tap, down.other}) {
          for (int64_t u : {along.tap, along.other}) {
            if (t >= 0 && u >= 0) taps[count++] = t * row + u;
          }
        }
        visit(number++, taps, count);
      }
    }
  }

  // Which differences a term takes, and where in `work` a row of them begins.
  template <bool kDown, bool kAlong>
  struct Minus {
    static constexpr bool down = kDown, along = kAlong;
  };
  struct Place {
    int64_t at, down, along;
  };

  // visit(minus, where its row begins, place, pixels) for the rows of image i's terms but those of lines.
  template <class Visit>
  void each_term(int64_t i, int64_t first, int64_t last, Visit visit) const {
    for (int part = 0; part < kParts * kParts; ++part) {
      const TermGroup& group = groups_.all()[part];
      const int64_t pixels = group.pixels(last - first, false);
      int64_t term = group.x + i * pixels * kL;
      for (const Term& down : down_.parts[part / kParts]) {
        for (const Term& along : along_.parts[part % kParts]) {
          if (down.minus >= 0) {
            along.minus >= 0 ? each_row(Minus<true, true>{}, group, pixels, term, down, along, visit)
                             : each_row(Minus<true, false>{}, group, pixels, term, down, along, visit);
          } else {
            along.minus >= 0 ? each_row(Minus<false, true>{}, group, pixels, term, down, along, visit)
                             : each_row(Minus<false, false>{}, group, pixels, term, down, along, visit);
          }
          term += group.x_step;
        }
      }
    }
  }
  template <class M, class Visit>
  void each_row(M minus, const TermGroup& group, int64_t pixels, int64_t term, const Term& down, const Term& along,
                Visit visit) const {
    const int64_t row = along_.size * kL, columns = group.columns;
    Place place{down.plus * row + along.plus * kL, down.minus * row + along.plus * kL, (along.minus - along.plus) * kL};
    for (int64_t pixel = 0; pixel < pixels; pixel += columns, term += columns * kL) {
      visit(minus, term, place, columns);
      place.at += 2 * row, place.down += 2 * row;
    }
  }

  // visit(where it lies, whether in rows of x or columns, where there) for the pixels of image i's terms of lines.
  template <class Visit>
  void each_line_term(int64_t i, int64_t first, int64_t last, Visit visit) const {
    const int64_t taps_h = int64_t(h_.taps.size()), taps_w = int64_t(w_.taps.size());
    const TermGroup* group = groups_.all().data() + kParts * kParts;
    for (const auto& line : down_.lines) {
      for (size_t t = 0; t < line.taps.size() && last == height(); ++t) {
        for (int64_t u = 0; u < taps_w; ++u) {
          const int64_t term = group->x + (int64_t(t) * taps_w + along_.weight_of_tap[u]) * group->x_step + i * width_;
          const int64_t at = line.taps[t].sample * this->row_step() + u * width_;
          for (int64_t m = 0; m < width_; m += kL) visit(term + m, true, at + m);
        }
      }
      ++group;
    }
    for (const auto& line : along_.lines) {
      for (size_t u = 0; u < line.taps.size(); ++u) {
        for (int64_t t = 0; t < taps_h; ++t) {
          const int64_t term = group->x + (int64_t(u) * taps_h + down_.weight_of_tap[t]) * group->x_step;
          const int64_t at = line.taps[u].sample * this->column_step() + (t * height() + first) * kL;
          for (int64_t n = 0; n < last - first; ++n) visit(term + (i * (last - first) + n) * kL, false, at + n * kL);
        }
      }
      ++group;
    }
  }

  // visit(run along, where its places begin, where those of low-passed x do, its row of x or -1, its first column
  // there)
  template <class Visit>
  void each_run(int64_t first, int64_t last, Visit visit) const {
    for (const auto& down : down_.runs) {
      const auto& h = h_.taps[down.tap];
      for (int64_t n = first; n < last + down.more; ++n) {
        const int64_t sample = n * h_.stride + h.offset, row = sample >= 0 && sample < h_.size ? sample : -1;
        for (const auto& run : along_.runs) {
          const auto& w = w_.taps[run.tap];
          visit(run, ((down.begin + n - first) * along_.size + run.begin) * kL, this->place_of(h, w, n), row, w.offset);
        }
      }
    }
  }
  const Axis down_, along_;
  TermGroups<C> groups_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
